"""kto_loss: the loss of answers that are good or bad each by itself, without a partner."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rlhf_kernels import _registry as registry

registry.declare("kto_loss", "composite")


def kto_loss(
    logratios: Tensor,
    signs: Tensor,
    kl: float | Tensor,
    *,
    beta: float,
    desirable: float = 1.0,
    undesirable: float = 1.0,
    denominator: float | Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the mean of w (1 - sigmoid(sign beta (logratio - z0))) over the answers that count.

    With logratio = log policy(y | x) - log reference(y | x), z0 = max(0, kl), and w = `desirable`
    where sign is 1, `undesirable` where it is -1. z0 is a constant: no gradient goes through it.

    Args:
        logratios: [N] nats, summed over an answer's tokens; float32, bfloat16, float16, float64.
        signs: [N] int64: 1 desirable, -1 undesirable, 0 counts nowhere (and may hold NaN).
        kl: nats, the mean log-ratio of answers to other prompts: an estimate of the KL of the
            policy to the reference. A number or a 0-d tensor.
        beta: positive, per nat: how fast the sigmoid saturates.
        desirable: weight of desirable answers, not negative.
        undesirable: weight of undesirable answers, not negative.
        denominator: what the sum is divided by; default: the answers that count. With the batch's
            count the losses of its micro-batches add up.

    Returns:
        `(loss, stats)`: a 0-d tensor, float32 (float64 for float64), differentiable in
        `logratios`, 0 where nothing counts; and 0-d tensors without gradient: `z0`; `desirable` and
        `undesirable`, how many there are; `desirable_reward` and `undesirable_reward`, their
        mean beta logratio, 0 without any.

    Raises:
        ValueError: shapes or dtypes do not fit, `beta` is not positive, or a weight is negative.

    Source: Ethayarajh et al. 2024 (arXiv:2402.01306), section 3.2.
    """
    _check(logratios, signs, beta, {"desirable": desirable, "undesirable": undesirable})
    (ratios,) = registry.promote(logratios)
    z0 = torch.as_tensor(kl, dtype=ratios.dtype, device=ratios.device).detach().clamp(min=0.0)
    good, bad = signs > 0, signs < 0
    counts = good | bad
    ratios = torch.where(counts, ratios, z0)
    weights = good * desirable + bad * undesirable
    # 1 - sigmoid(v) = sigmoid(-v), which keeps its digits where v is large
    losses = weights * functional.sigmoid((z0 - ratios) * signs * beta)
    divisor = registry.make_denominator(denominator, counts)
    total = losses.sum(dtype=torch.float64) / torch.where(divisor > 0, divisor, 1.0)
    rewards = (beta * ratios).detach().double()
    stats = {
        "z0": z0,
        "desirable": good.sum(),
        "undesirable": bad.sum(),
        "desirable_reward": (rewards * good).sum() / good.sum().clamp(min=1),
        "undesirable_reward": (rewards * bad).sum() / bad.sum().clamp(min=1),
    }
    return total.to(ratios.dtype), {name: value.to(ratios.dtype) for name, value in stats.items()}


def _check(logratios: Tensor, signs: Tensor, beta: float, weights: dict[str, float]) -> None:
    if logratios.dim() != 1 or not logratios.is_floating_point():
        raise ValueError(
            "kto_loss: argument 'logratios' must be a floating tensor [N],"
            f" got {logratios.dtype} {list(logratios.shape)}"
        )
    if signs.dtype != torch.int64 or signs.shape != logratios.shape:
        raise ValueError(
            "kto_loss: argument 'signs' must be int64 of the shape of 'logratios'"
            f" {list(logratios.shape)}, got {signs.dtype} {list(signs.shape)}"
        )
    if not beta > 0:
        raise ValueError(f"kto_loss: argument 'beta' must be positive, got {beta}")
    for name, weight in weights.items():
        if not weight >= 0:
            raise ValueError(f"kto_loss: argument '{name}' must not be negative, got {weight}")

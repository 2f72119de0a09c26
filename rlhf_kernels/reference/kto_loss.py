"""Float64 reference of kto_loss, answer by answer; see `rlhf_kernels.ops.kto_loss`."""

import torch
from torch import Tensor


def kto_loss(
    logratios: Tensor,
    signs: Tensor,
    kl: float,
    *,
    beta: float,
    desirable: float = 1.0,
    undesirable: float = 1.0,
    denominator: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the mean of lambda - value over the answers that are desirable or undesirable."""
    z0 = max(0.0, float(kl))
    losses, rewards = [], {1: [0.0], -1: [0.0]}
    for ratio, sign in zip(logratios.double(), signs.tolist(), strict=True):
        if sign == 0:
            continue
        weight = desirable if sign > 0 else undesirable
        value = weight / (1.0 + torch.exp(-sign * beta * (ratio - z0)))
        losses.append(weight - value)
        rewards[sign].append(beta * ratio.item())
    total = torch.stack(losses).sum() if losses else torch.zeros((), dtype=torch.float64)
    found = {
        "z0": z0,
        "desirable": len(rewards[1]) - 1,
        "undesirable": len(rewards[-1]) - 1,
        "desirable_reward": sum(rewards[1]) / max(1, len(rewards[1]) - 1),
        "undesirable_reward": sum(rewards[-1]) / max(1, len(rewards[-1]) - 1),
    }
    stats = {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}
    return total / (denominator or max(1, len(losses))), stats

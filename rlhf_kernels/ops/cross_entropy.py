"""cross_entropy: mean token cross-entropy, the pretraining term of the policy objective alone."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_kernels import _registry as registry
from rlhf_kernels.ops.ppo_loss_from_logits import ppo_loss_from_logits

registry.declare("cross_entropy", "composite")


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    mask: Tensor | None = None,
    denominator: float | Tensor | None = None,
    temperature: float | Tensor = 1.0,
    inplace: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the mean cross-entropy of the targets, with its gradient in closed form.

    loss = sum_mask -log softmax(logits / temperature)[target] / denominator.

    Args:
        logits: [N, V] float32, bfloat16, float16 or float64, a row's values consecutive in memory.
        targets: [N] int64 or int32; anything (-100 too) on rows outside the mask.
        mask: bool [N], True counts; default: every row. Other rows cost nothing.
        denominator: what the sum is divided by, default the number of rows that count; with the
            batch's count, the losses of its micro-batches add up.
        temperature: at least 1e-4; a number or [N].
        inplace: replace `logits` by the gradient of the loss; they must not be used afterwards.

    Returns:
        `(loss, stats)`: a 0-d tensor in nats per token, float32 (float64 for float64 logits),
        differentiable in `logits`; stats `loss` and `entropy`, 0-d means without gradient.

    Raises:
        ValueError: a shape, dtype, layout or range is wrong; the message names the argument.
        RuntimeError: a second backward of the in-place form.

    Source: InstructGPT section 3.5 (SFT), and the last term of its equation 2.
    """
    n = logits.shape[0]
    nothing = registry.new_result(logits, n)  # never read: no row counts as the policy's
    counted = torch.ones(n, dtype=torch.bool, device=logits.device) if mask is None else mask
    loss, stats = ppo_loss_from_logits(
        logits,
        targets,
        nothing,
        nothing,
        torch.zeros(n, dtype=torch.bool, device=logits.device),
        cliprange=0.0,
        temperature=temperature,
        ptx_mask=counted,
        ptx_coef=1.0,
        ptx_denominator=denominator,
        inplace=inplace,
    )
    return loss, {"loss": stats["ptx_loss"], "entropy": stats["ptx_entropy"]}

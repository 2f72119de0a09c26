"""linear_cross_entropy: mean token cross-entropy of a linear head, its logits never held."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_kernels import _registry as registry
from rlhf_kernels.ops import _linear_checks as checks
from rlhf_kernels.ops._linear import compute_dtype
from rlhf_kernels.ops._linear_loss import Batch, Options, compute

registry.declare("linear_cross_entropy", "composite")

OP = "linear_cross_entropy"


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    denominator: float | Tensor | None = None,
    temperature: float | Tensor = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    chunk_bytes: int | None = None,
    weight_grad: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute `cross_entropy` of the logits hidden @ weight.T + bias without holding them.

    loss = sum_mask -log softmax(z)[target] / denominator, z as in `linear_logprobs`. Both
    gradients are formed in the same pass as the loss: three products in all.

    Args:
        hidden: [N, D]; dtypes and autocast as in `linear_logprobs`.
        weight: [V, D].
        targets: [N] int64 or int32; anything (-100 too) on rows outside the mask.
        bias: [V] or None.
        mask: bool [N], True counts; default: every row. Other rows are left out before the
            products; on CUDA finding them waits for the device.
        denominator: what the sum is divided by, default the number of rows that count; with the
            batch's count, the losses of its micro-batches add up.
        temperature: at least 1e-4 times `logit_scale`; a number or [N].
        logit_scale: a factor of the logits.
        softcap: bound of the logits, or None.
        chunk_bytes: memory for the chunk's logits; None for 26 MiB on the CPU, 4096 rows on CUDA.
        weight_grad: [V, D], what the weight's gradient is added to, as in `linear_ppo_loss`: then
            call backward once, with upstream gradient 1.

    Returns:
        `(loss, stats)`: a 0-d tensor in nats per token, float32 (float64 for float64 input),
        differentiable in `hidden`, `weight` and `bias`; stats `loss` and `entropy`, 0-d means
        without gradient.

    Raises:
        ValueError: a shape, dtype or range is wrong, or `chunk_bytes` holds no row.
        RuntimeError: a second backward; the first one has used the gradients up.

    Source: InstructGPT section 3.5 (SFT), and the last term of its equation 2.
    """
    checks.check_head(OP, hidden, weight, bias, compute_dtype(hidden))
    nothing = registry.new_result(hidden, len(hidden))  # never read: no row is the policy's
    none = torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device)
    counted = torch.ones_like(none) if mask is None else mask
    checks.check_rows(OP, len(hidden), mask=counted)
    options = Options(
        cliprange=0.0,
        temperature=temperature,
        logit_scale=logit_scale,
        softcap=softcap,
        ptx_coef=1.0,
        ptx_denominator=denominator,
        chunk_bytes=chunk_bytes,
        packed=mask is None,
    )
    batch = Batch(targets, nothing, nothing, none, None, None, counted, None)
    head = (hidden, weight, bias)
    loss, stats = compute(OP, head, (None, None), batch, options, weight_grad)
    return loss, {"loss": stats["ptx_loss"], "entropy": stats["ptx_entropy"]}

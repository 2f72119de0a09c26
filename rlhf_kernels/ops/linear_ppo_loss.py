"""linear_ppo_loss: the policy objective of a linear head with its gradients, in three products."""

from __future__ import annotations

from torch import Tensor

from rlhf_kernels import _registry as registry
from rlhf_kernels.ops._linear_loss import Batch, Options, compute

registry.declare("linear_ppo_loss", "composite")

OP = "linear_ppo_loss"


def linear_ppo_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    cliprange: float,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    entropy_coef: float = 0.0,
    kl_coef: float = 0.0,
    kl_estimator: str = "k3",
    ref_logprobs: Tensor | None = None,
    ref_hidden: Tensor | None = None,
    ref_weight: Tensor | None = None,
    ref_bias: Tensor | None = None,
    ptx_mask: Tensor | None = None,
    ptx_coef: float = 0.0,
    denominator: float | Tensor | None = None,
    ptx_denominator: float | Tensor | None = None,
    chunk_bytes: int | None = None,
    packed: bool = False,
    weight_grad: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute `ppo_loss_from_logits` of the logits hidden @ weight.T + bias without holding them.

    A chunk's logits are formed, replaced by the loss's gradient in place, and multiplied at once
    into the gradients of `hidden` and `weight`: three products in all, forward alone one.
    Denominators are fixed before the first chunk, so losses and statistics are those of one call.

    Args:
        hidden: [N, D]; dtypes and autocast as in `linear_logprobs`.
        weight: [V, D].
        targets: [N] int64 or int32; anything on rows outside both masks.
        old_logprobs: [N] nats, float32 (float64 for float64 input).
        advantages: [N], same dtype.
        mask: bool [N], True where the policy terms count. Rows outside both masks are left out
            before the products and get gradient 0.
        cliprange: not negative (InstructGPT: 0.2).
        bias: [V] or None.
        temperature: at least 1e-4 times `logit_scale`; a number or [N].
        logit_scale: a factor of the logits, the reference's too.
        softcap: bound of the logits, the reference's too, or None.
        entropy_coef: weight of the entropy bonus, not negative.
        kl_coef: weight of K, not negative; needs `ref_logprobs` or `ref_hidden`.
        kl_estimator: "k2" or "k3", for `ref_logprobs`.
        ref_logprobs: [N] nats.
        ref_hidden: [N, D'] of the reference, for the exact KL instead of `ref_logprobs`.
        ref_weight: [V, D'] of the reference's head.
        ref_bias: [V] or None.
        ptx_mask: bool [N], True where the row is pretraining text.
        ptx_coef: weight of the pretraining cross-entropy (InstructGPT: 27.8).
        denominator: what the sums over `mask` are divided by, default its number of True entries.
        ptx_denominator: the same for `ptx_mask`.
        chunk_bytes: memory for the chunk's logits; None for 26 MiB on the CPU, 4096 rows on CUDA.
        packed: every row counts in one of the masks, so none is looked for: on CUDA that would
            wait for the device. A row that counts nowhere still gets gradient 0.
        weight_grad: [V, D] float32 (float64 for a float64 weight), such as `weight.grad` or rows of
            it. The weight's gradient is added to it during this call, chunk by chunk, so that
            no other [V, D] exists, and autograd gets none. Call backward once, with upstream
            gradient 1: factors belong into `denominator` and the coefficients. Without gradients
            enabled nothing is added.

    Returns:
        `(loss, stats)` as `ppo_loss_from_logits` returns them, differentiable in `hidden`,
        `weight` and `bias`.

    Raises:
        ValueError: a shape, dtype or range is wrong, or `chunk_bytes` holds no row.
        RuntimeError: a second backward; the first one has used the gradients up. With
            `weight_grad` also one whose upstream gradient is not 1; on CUDA, where reading it
            would wait, that makes the gradients NaN.

    Source: InstructGPT section 3.5, equation 2; Schulman et al. 2017 (arXiv:1707.06347).
    """
    batch = Batch(targets, old_logprobs, advantages, mask, ref_logprobs, ref_hidden, ptx_mask, None)
    options = Options(
        cliprange=cliprange,
        temperature=temperature,
        logit_scale=logit_scale,
        softcap=softcap,
        entropy_coef=entropy_coef,
        kl_coef=kl_coef,
        kl_estimator=kl_estimator,
        ptx_coef=ptx_coef,
        denominator=denominator,
        ptx_denominator=ptx_denominator,
        chunk_bytes=chunk_bytes,
        packed=packed,
    )
    head, reference = (hidden, weight, bias), (ref_weight, ref_bias)
    return compute(OP, head, reference, batch, options, weight_grad)

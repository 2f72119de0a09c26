"""exact_kl: KL(policy || reference) of every row over the whole vocabulary."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rlhf_kernels import _registry as registry
from rlhf_kernels.ops import _rows

registry.declare("exact_kl", "native")


def _outputs(logits: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return registry.new_result(logits, logits.shape[0]), _rows.new_saved(logits)


def _backward_outputs(grad_kl: Tensor, logits: Tensor, *_: Any) -> Tensor:
    return _rows.new_gradient(logits)


_forward = registry.define_op(
    "exact_kl(Tensor logits, Tensor ref_logits, Tensor? mask, Tensor? temperatures,"
    " float temperature) -> (Tensor, Tensor)",
    _outputs,
)
_backward = registry.define_op(
    "exact_kl_backward(Tensor grad_kl, Tensor logits, Tensor ref_logits, Tensor kl, Tensor rows)"
    " -> Tensor",
    _backward_outputs,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:2], *output)
    ctx.mark_non_differentiable(output[1])


def _gradient(ctx: Any, grad_kl: Tensor, unused: None) -> tuple[Tensor]:
    return (_backward(grad_kl.contiguous(), *ctx.saved_tensors),)


registry.define_gradient("exact_kl", _setup, _gradient)
registry.forbid_gradient("exact_kl_backward")


def exact_kl(
    logits: Tensor,
    ref_logits: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Compute KL(p || q) of every row over the whole vocabulary, in one read of each.

    With p = softmax(logits / temperature) and q = softmax(ref_logits / temperature):
    kl = sum_v p_v (log p_v - log q_v), summed as p (expm1(d) - d), d = log q - log p, whose terms
    are not negative: kl >= 0 always, and exactly 0 for equal inputs.

    An entry with p = 0 contributes nothing; one with q = 0 < p makes the result infinite. Logits
    rounded to bfloat16 put a floor under small values: a true KL of 5e-5 nats reads as 2e-4 to
    7e-4, so pass float32 logits where that matters.

    Args:
        logits: [N, V] float32, bfloat16, float16 or float64, a row's values consecutive in memory.
        ref_logits: the reference's, same shape and dtype; gets no gradient.
        temperature: at least 1e-4, one number or a float32/float64 tensor [N].
        mask: bool [N], True counts. Other rows are not read, give 0 and get gradient 0.

    Returns:
        [N] nats, float32 (float64 for float64 logits), differentiable in `logits`.

    Raises:
        ValueError: a shape, dtype, layout or range is wrong; the message names the argument.

    Source: InstructGPT section 3.5 (the KL of the policy from the SFT model), without sampling.
    """
    per_row, common = _rows.split_temperature(temperature)
    results = _forward(logits, ref_logits.detach(), _rows.dense(mask), per_row, common)
    kl: Tensor = results[0]
    return kl

"""gather_logprobs: log-prob of the target, entropy and logsumexp of every row in one read."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from rlhf_kernels import _registry as registry
from rlhf_kernels.ops import _rows

registry.declare("gather_logprobs", "native")


class LogProbs(NamedTuple):
    """What `gather_logprobs` returns: three tensors [N] in nats."""

    logprobs: Tensor
    entropy: Tensor
    logsumexp: Tensor


def _outputs(logits: Tensor, *_: Any) -> tuple[Tensor, ...]:
    n = logits.shape[0]
    values = tuple(registry.new_result(logits, n) for _ in range(3))
    return (*values, _rows.new_saved(logits))


def _backward_outputs(
    grad_logprobs: Tensor, grad_entropy: Tensor, grad_logsumexp: Tensor, logits: Tensor, *_: Any
) -> Tensor:
    return _rows.new_gradient(logits)


def _no_outputs(*_: Any) -> None:
    return None


_forward = registry.define_op(
    "gather_logprobs(Tensor logits, Tensor targets, Tensor? mask, Tensor? temperatures,"
    " float temperature) -> (Tensor, Tensor, Tensor, Tensor)",
    _outputs,
)
_backward = registry.define_op(
    "gather_logprobs_backward(Tensor grad_logprobs, Tensor grad_entropy, Tensor grad_logsumexp,"
    " Tensor logits, Tensor targets, Tensor rows) -> Tensor",
    _backward_outputs,
)
_backward_inplace = registry.define_op(
    "gather_logprobs_backward_(Tensor grad_logprobs, Tensor grad_entropy, Tensor grad_logsumexp,"
    " Tensor(a!) logits, Tensor targets, Tensor rows) -> ()",
    _no_outputs,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, targets = inputs[:2]
    ctx.save_for_backward(logits, targets, output[3])
    ctx.mark_non_differentiable(output[3])


def _gradient(ctx: Any, *grads: Tensor | None) -> tuple[Tensor]:
    return (_backward(*_rows.fill_gradients(grads[:3]), *ctx.saved_tensors),)


registry.define_gradient("gather_logprobs", _setup, _gradient)
registry.forbid_gradient("gather_logprobs_backward")


def gather_logprobs(
    logits: Tensor,
    targets: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    mask: Tensor | None = None,
) -> LogProbs:
    """Compute the target's log-prob, the entropy and the logsumexp of every row in one read.

    With z = logits / temperature and p = softmax(z):
    logsumexp = log sum_v exp z_v,  logprob = z_y - logsumexp,  entropy = -sum_v p_v log p_v.

    Args:
        logits: [N, V] float32, bfloat16, float16 or float64. A row's V values must be consecutive
            in memory; the distance between rows is free, so slices of a padded tensor are fine.
        targets: [N] int64 or int32; rows outside `mask` may hold anything, -100 included.
        temperature: positive (at least 1e-4), one number or a float32/float64 tensor [N].
        mask: bool [N], True counts. Other rows are not read, give 0 and get gradient 0.

    Returns:
        LogProbs(logprobs, entropy, logsumexp), each [N], nats, float32 (float64 for float64
        logits). logprobs <= 0. Differentiable in the logits; the gradient has their dtype. A row's
        results do not depend on the other rows, bit for bit.

    Raises:
        ValueError: a shape, dtype or layout is wrong, a temperature is too small, or a target of
            a row that counts is outside [0, V).
    """
    per_row, common = _rows.split_temperature(temperature)
    results = _forward(logits, targets.contiguous(), _rows.dense(mask), per_row, common)
    return LogProbs(*results[:3])

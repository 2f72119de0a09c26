"""ppo_loss_from_logits: the whole policy objective from logits, its gradient in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlhf_kernels import _registry as registry
from rlhf_kernels.ops import _rows

registry.declare("ppo_loss_from_logits", "native")

#: In the order of the native kernel's statistics.
STATS = (
    "policy_loss",
    "approxkl",
    "approxkl_k3",
    "clipfrac",
    "ratio_mean",
    "ratio_var",
    "ratio_max",
    "ratio_error",
    "entropy",
    "kl",
    "ptx_loss",
    "ptx_entropy",
)

_ARGUMENTS = (
    " logits, Tensor targets, Tensor old_logprobs, Tensor advantages, Tensor mask,"
    " Tensor? ref_logprobs, Tensor? ref_logits, Tensor? ptx_mask, Tensor? temperatures,"
    " Tensor? denominator, Tensor? ptx_denominator, float temperature, float cliprange,"
    " float entropy_coef, float kl_coef, float ptx_coef, str kl_estimator)"
    " -> (Tensor, Tensor, Tensor)"
)
_REF_LOGITS = 6


def _outputs(logits: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return (
        registry.new_result(logits),
        registry.new_result(logits, len(STATS)),
        _rows.new_saved(logits),
    )


def _rows_of(logits: Tensor, *_: Any) -> int:
    return logits.shape[0]


def _backward_outputs(logits: Tensor, *_: Any) -> Tensor:
    return _rows.new_gradient(logits)


def _no_outputs(*_: Any) -> None:
    return None


_forward = registry.define_op(f"ppo_loss_from_logits(Tensor{_ARGUMENTS}", _outputs, _rows_of)
_forward_inplace = registry.define_op(
    f"ppo_loss_from_logits_(Tensor(a!){_ARGUMENTS}", _outputs, _rows_of
)
_backward = registry.define_op(
    "ppo_loss_from_logits_backward(Tensor logits, Tensor? ref_logits, Tensor targets, Tensor rows,"
    " Tensor upstream) -> Tensor",
    _backward_outputs,
)
_scale_inplace = registry.define_op(
    "ppo_loss_from_logits_scale_(Tensor(a!) grad, Tensor rows, Tensor upstream) -> ()",
    _no_outputs,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(inputs[0], inputs[_REF_LOGITS], inputs[1], output[2])
    ctx.mark_non_differentiable(output[1], output[2])


def _gradient(ctx: Any, upstream: Tensor, *unused: Tensor | None) -> tuple[Tensor]:
    return (_backward(*ctx.saved_tensors, upstream),)


registry.define_gradient("ppo_loss_from_logits", _setup, _gradient)
registry.forbid_gradient("ppo_loss_from_logits_backward")


class _InPlace(torch.autograd.Function):
    """The in-place form: a mutable operator cannot carry a registered gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        """Compute the loss; `logits` holds its gradient afterwards."""
        loss, stats, rows = _forward_inplace(logits, *rest)
        ctx.save_for_backward(logits, rows)
        ctx.mark_non_differentiable(stats)
        ctx.set_materialize_grads(False)
        return loss, stats

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor | None, unused: None) -> tuple[Tensor | None, ...]:
        """Scale the gradient where it lies; that makes a second backward an error."""
        grad, rows = ctx.saved_tensors
        others = [None] * (len(ctx.needs_input_grad) - 1)
        if upstream is None:
            return (None, *others)
        _scale_inplace(grad, rows, upstream)
        return (grad.detach(), *others)


def ppo_loss_from_logits(
    logits: Tensor,
    targets: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    cliprange: float,
    temperature: float | Tensor = 1.0,
    entropy_coef: float = 0.0,
    kl_coef: float = 0.0,
    kl_estimator: str = "k3",
    ref_logprobs: Tensor | None = None,
    ref_logits: Tensor | None = None,
    ptx_mask: Tensor | None = None,
    ptx_coef: float = 0.0,
    denominator: float | Tensor | None = None,
    ptx_denominator: float | Tensor | None = None,
    inplace: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the policy objective of PPO-ptx from logits, with its gradient in closed form.

    With log p = log_softmax(logits / temperature), l = log p[target], r = exp(l - old_logprobs):
    loss = sum_mask( max(-A r, -A clip(r, 1 - cliprange, 1 + cliprange))
                     - entropy_coef H(p) + kl_coef K ) / denominator
           + ptx_coef sum_ptx_mask(-l) / ptx_denominator,
    K being k2 or k3 of (l, ref_logprobs), or with `ref_logits` the exact sum_v p (log p - log q).

    Args:
        logits: [N, V] float32, bfloat16, float16 or float64, a row's values consecutive in memory.
        targets: [N] int64 or int32; anything on rows outside both masks.
        old_logprobs: [N] nats, float32 (float64 for float64 logits); when the token was sampled.
        advantages: [N], same dtype.
        mask: bool [N], True where the policy terms count. Rows outside both masks are not read.
        cliprange: not negative (InstructGPT: 0.2).
        temperature: at least 1e-4; a number for every row (pretraining rows too), or [N].
        entropy_coef: weight of the entropy bonus, not negative.
        kl_coef: weight of K in the loss, not negative; needs `ref_logprobs` or `ref_logits`.
        kl_estimator: "k2" or "k3", for `ref_logprobs`; "k1" has no place in a loss.
        ref_logprobs: [N] nats, dtype of `old_logprobs`.
        ref_logits: [N, V], dtype of `logits`, instead of `ref_logprobs`; same temperature.
        ptx_mask: bool [N], True where the row is pretraining text.
        ptx_coef: weight of the pretraining cross-entropy, an added term (InstructGPT: 27.8).
        denominator: what the sums over `mask` are divided by, default its number of True entries;
            with the minibatch's count, the losses of its micro-batches add up.
        ptx_denominator: the same for `ptx_mask`.
        inplace: replace `logits` by the gradient of the loss (no second [N, V] tensor). `logits`
            must not be used afterwards, and backward can run once.

    Returns:
        `(loss, stats)`: a 0-d tensor, float32 (float64 for float64 logits), differentiable in
        `logits`; and 0-d tensors without gradient. Means over `mask`, divided by `denominator` and
        so adding up over micro-batches: `policy_loss`, `approxkl` = (l - old)^2 / 2,
        `approxkl_k3`, `clipfrac`, `ratio_mean`, `ratio_var` (around this call's mean), `entropy`,
        `kl` (only with a reference). Maxima: `ratio_max`, `ratio_error` = |r - 1|. Means over
        `ptx_mask` (only with one): `ptx_loss`, `ptx_entropy`. Without rows everything is 0.

    Raises:
        ValueError: a shape, dtype, layout or range is wrong; the message names the argument.
        RuntimeError: a second backward of the in-place form.

    Source: InstructGPT section 3.5, equation 2; Schulman et al. 2017 (arXiv:1707.06347).
    """
    per_row, common = _rows.split_temperature(temperature)
    arguments = (
        logits,
        targets.contiguous(),
        old_logprobs.detach().contiguous(),
        advantages.detach().contiguous(),
        mask.contiguous(),
        _rows.detached(ref_logprobs),
        None if ref_logits is None else ref_logits.detach(),
        _rows.dense(ptx_mask),
        per_row,
        registry.optional_denominator(denominator, mask),
        registry.optional_denominator(ptx_denominator, mask),
        common,
        cliprange,
        entropy_coef,
        kl_coef,
        ptx_coef,
        kl_estimator,
    )
    if inplace:
        loss, values = _InPlace.apply(*arguments)  # type: ignore[no-untyped-call]
    else:
        loss, values, _ = _forward(*arguments)
    stats = dict(zip(STATS, values.unbind(), strict=True))
    if ref_logprobs is None and ref_logits is None:
        del stats["kl"]
    if ptx_mask is None:
        del stats["ptx_loss"], stats["ptx_entropy"]
    return loss, stats

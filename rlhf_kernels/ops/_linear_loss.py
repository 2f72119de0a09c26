"""The objective of a linear head with its gradients: the operators and their place in the graph.

Two operators of one body: `linear_ppo_loss` returns the weight's gradient, `linear_ppo_loss_` adds
it to a tensor of the caller's, so that a second [V, D] never exists.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlhf_kernels import _registry as registry
from rlhf_kernels.ops import _linear, _linear_gradients, _rows
from rlhf_kernels.ops import _linear_checks as checks
from rlhf_kernels.ops._linear_stats import merge_chunks, name_stats
from rlhf_kernels.ops.ppo_loss_from_logits import STATS

Gradients = tuple[Tensor, Tensor, Tensor]
Scalars = tuple[float, float, float, float, float, str]


class Batch(NamedTuple):
    """The tensors over rows, [N] each; `ref_hidden` is [N, D']."""

    targets: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    mask: Tensor
    ref_logprobs: Tensor | None
    ref_hidden: Tensor | None
    ptx_mask: Tensor | None
    temperatures: Tensor | None

    def map(self, function: Any) -> Batch:
        """Return the batch with a function applied to each tensor there is."""
        return Batch._make(None if x is None else function(x) for x in self)

    def counted(self) -> Tensor:
        """Return bool [N]: which rows count at all."""
        return self.mask if self.ptx_mask is None else self.mask | self.ptx_mask


def _outputs(hidden: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    wants = rest[-2] if isinstance(rest[-1], str) else rest[-3]
    values = (registry.new_result(hidden), registry.new_result(hidden, len(STATS)))
    return (*values, *_linear_gradients.gradient_outputs(hidden, weight, bias, wants))


@_linear.isolated
def _run(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ref_weight: Tensor | None,
    ref_bias: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, ...]:
    batch = Batch(*rest[:8])
    scalars: Scalars = rest[10:16]
    softcap, chunk_bytes, autocast, packed, wants, op, weight_grad = (*rest[16:], None)[:7]
    differentiated = any(wants) or weight_grad is not None
    head = _linear.make_head(weight, bias, softcap, autocast)
    reference = None
    if ref_weight is not None:
        reference = _linear.make_head(ref_weight, ref_bias, softcap, autocast)
    chunks = _linear.plan_chunks(
        op,
        None if packed else batch.counted(),
        hidden,
        head,
        chunk_bytes,
        held=1 + (reference is not None) + bool(softcap and differentiated),
        spared=_linear_gradients.spared_bytes(weight, head, wants, weight_grad),
    )
    kept = batch.map(chunks.pack)
    checks.check_targets(op, kept.targets, len(weight), kept.counted(), chunks.index)
    denominators = _count_rows(chunks, kept, *rest[8:10])
    gradients = _linear_gradients.Gradients(hidden, weight, bias, wants, chunks, head, weight_grad)
    with checks.headed(op):
        parts = _run_chunks(hidden, head, reference, chunks, kept, denominators, scalars, gradients)
    # First of all, into the room that the workspaces have just left.
    grads = gradients.finish()
    loss, values = merge_chunks(*parts, chunks, kept.mask, denominators[0])
    dtype = registry.result_dtype(hidden)
    return loss.to(dtype), values.to(dtype), *grads


def _count_rows(
    chunks: _linear.Chunks, batch: Batch, denominator: Tensor | None, ptx_denominator: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Count the rows of both masks where no number is given; a single chunk counts its own."""
    if chunks.single:
        return denominator, ptx_denominator
    if batch.ptx_mask is not None:
        ptx_denominator = registry.make_denominator(ptx_denominator, batch.ptx_mask)
    return registry.make_denominator(denominator, batch.mask), ptx_denominator


def _run_chunks(
    hidden: Tensor,
    head: _linear.Head,
    reference: _linear.Head | None,
    chunks: _linear.Chunks,
    batch: Batch,
    denominators: tuple[Tensor | None, Tensor | None],
    scalars: Scalars,
    gradients: _linear_gradients.Gradients,
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the losses and the statistics of the chunks; add up the gradients on the way."""
    wants = gradients.wanted
    objective = _objective_inplace if wants else _objective
    (space,) = chunks.new_workspaces(head, 1)
    (cap_space,) = chunks.new_workspaces(head, 1) if head.softcap and wants else (None,)
    (ref_space,) = chunks.new_workspaces(reference, 1) if reference else (None,)
    losses, stats = [], []
    for part in chunks:
        n = part.stop - part.start
        rows = chunks.hidden(hidden, part, head)
        bounded = None if cap_space is None else cap_space[:n]
        head.write_logits(rows, space[:n], bounded)
        here = batch.map(lambda x, part=part: chunks.cut(x, part))
        ref_logits = None
        if reference is not None and ref_space is not None and here.ref_hidden is not None:
            ref_logits = ref_space[:n]
            reference.write_logits(here.ref_hidden.to(head.weight.dtype), ref_logits)
        loss, values, _ = objective(
            space[:n],
            *here[:5],
            ref_logits,
            *here[6:],
            *denominators,
            *scalars,
        )
        losses.append(loss)
        stats.append(values)
        if wants:
            head.undo_softcap(space[:n], bounded)
            gradients.add(space[:n], rows, part)
    return losses, stats


_objective = torch.ops.rlhf_kernels.ppo_loss_from_logits.default
_objective_inplace = torch.ops.rlhf_kernels.ppo_loss_from_logits_.default

_ARGUMENTS = (
    "Tensor hidden, Tensor weight, Tensor? bias, Tensor? ref_weight,"
    " Tensor? ref_bias, Tensor targets, Tensor old_logprobs, Tensor advantages, Tensor mask,"
    " Tensor? ref_logprobs, Tensor? ref_hidden, Tensor? ptx_mask, Tensor? temperatures,"
    " Tensor? denominator, Tensor? ptx_denominator, float temperature, float cliprange,"
    " float entropy_coef, float kl_coef, float ptx_coef, str kl_estimator, float softcap,"
    " SymInt? chunk_bytes, ScalarType? compute, bool packed, bool[] wants, str op"
)
_RESULTS = "(Tensor, Tensor, Tensor, Tensor, Tensor)"

_operator = registry.define_composite(
    f"linear_ppo_loss({_ARGUMENTS}) -> {_RESULTS}", _run, _outputs
)
_operator_into = registry.define_composite(
    f"linear_ppo_loss_({_ARGUMENTS}, Tensor(a!) weight_grad) -> {_RESULTS}", _run, _outputs
)
registry.forbid_gradient("linear_ppo_loss")


class _Loss(torch.autograd.Function):
    """The gradients come with the loss; backward scales them where they lie."""

    @staticmethod
    def forward(
        ctx: Any,
        wants: list[bool],
        op: str,
        weight_grad: Tensor | None,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *rest: Any,
    ) -> tuple[Tensor, Tensor]:
        """Compute the loss and the gradients that are wanted."""
        arguments = (hidden, weight, bias, *rest, wants, op)
        if weight_grad is None:
            loss, values, *grads = _operator(*arguments)
        else:
            loss, values, *grads = _operator_into(*arguments, weight_grad)
        ctx.save_for_backward(*grads)
        ctx.wants, ctx.finished = wants, weight_grad is not None
        ctx.nothing = [None] * len(rest)
        ctx.mark_non_differentiable(values)
        ctx.set_materialize_grads(False)
        return loss, values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor | None, unused: None) -> tuple[Tensor | None, ...]:
        """Scale in place, without a second [V, D]; that makes a second backward an error."""
        if upstream is None:
            return (None,) * len(ctx.needs_input_grad)
        scale = _linear.refuse_scale if ctx.finished else _linear.scale_inplace
        grads = []
        for grad, want in zip(ctx.saved_tensors, ctx.wants, strict=True):
            if want:
                scale(grad, upstream)
            grads.append(grad.detach() if want else None)
        return (None, None, None, *grads, *ctx.nothing)


class Options(NamedTuple):
    """The settings of `linear_ppo_loss`, with its defaults; its docstring explains them."""

    cliprange: float
    temperature: float | Tensor = 1.0
    logit_scale: float = 1.0
    softcap: float | None = None
    entropy_coef: float = 0.0
    kl_coef: float = 0.0
    kl_estimator: str = "k3"
    ptx_coef: float = 0.0
    denominator: float | Tensor | None = None
    ptx_denominator: float | Tensor | None = None
    chunk_bytes: int | None = None
    packed: bool = False


def compute(
    op: str,
    head: tuple[Tensor, Tensor, Tensor | None],
    reference: tuple[Tensor | None, Tensor | None],
    batch: Batch,
    options: Options,
    weight_grad: Tensor | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Check everything and compute, for the public op of that name.

    Args:
        op: heads the errors.
        head: hidden states, weight, bias.
        reference: weight and bias of the reference's head.
        batch: tensors over rows, without temperatures.
        options: numbers and flags.
        weight_grad: what the weight's gradient is added to, or None to return it to autograd.
    """
    (hidden, weight, bias), (ref_weight, ref_bias) = head, reference
    autocast = _linear.compute_dtype(hidden)
    checks.check_head(op, hidden, weight, bias, autocast)
    checks.check_reference(op, hidden, weight, batch.ref_hidden, ref_weight)
    if batch.ref_hidden is not None and ref_weight is not None:
        checks.check_head(op, batch.ref_hidden, ref_weight, ref_bias, autocast, "ref_")
    rows = batch._asdict()
    del rows["ref_hidden"], rows["temperatures"]
    checks.check_rows(op, len(hidden), **rows, temperature=options.temperature)
    checks.check_weight_grad(op, weight, weight_grad)
    per_row, common, cap = _linear.split_scale(
        op, options.temperature, options.logit_scale, options.softcap
    )
    ptx_denominator = None if batch.ptx_mask is None else options.ptx_denominator
    arguments = (
        *head,
        *map(_rows.detached, reference),
        *batch._replace(temperatures=per_row).map(_rows.detached),
        registry.optional_denominator(options.denominator, batch.mask),
        registry.optional_denominator(ptx_denominator, batch.mask),
        *(common, options.cliprange, options.entropy_coef, options.kl_coef, options.ptx_coef),
        *(options.kl_estimator, cap, options.chunk_bytes, autocast, options.packed),
    )
    wants = _linear.wanted(*head)
    if any(wants):
        wants[1] = wants[1] and weight_grad is None
        loss, values = _Loss.apply(wants, op, weight_grad, *arguments)  # type: ignore[no-untyped-call]
    else:
        loss, values, *_ = _operator(*arguments, wants, op)
    has_reference = batch.ref_logprobs is not None or batch.ref_hidden is not None
    return loss, name_stats(values, has_reference, batch.ptx_mask is not None)

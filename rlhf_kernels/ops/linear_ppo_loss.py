"""linear_ppo_loss: the policy objective of a linear head with its gradients, in three products."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlhf_kernels import _registry as registry
from rlhf_kernels.ops import _linear, _rows
from rlhf_kernels.ops import _linear_checks as checks
from rlhf_kernels.ops._linear_stats import merge_chunks, name_stats
from rlhf_kernels.ops.ppo_loss_from_logits import STATS

registry.declare("linear_ppo_loss", "composite")

OP = "linear_ppo_loss"

Gradients = tuple[Tensor, Tensor, Tensor]
Scalars = tuple[float, float, float, float, float, str]


class _Batch(NamedTuple):
    """The tensors over rows, [N] each; `ref_hidden` is [N, D']."""

    targets: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    mask: Tensor
    ref_logprobs: Tensor | None
    ref_hidden: Tensor | None
    ptx_mask: Tensor | None
    temperatures: Tensor | None

    def map(self, function: Any) -> _Batch:
        """Return the batch with a function applied to each tensor there is."""
        results: list[Any] = [None if x is None else function(x) for x in self]
        return _Batch(*results)

    def counted(self) -> Tensor:
        """Return bool [N]: which rows count at all."""
        return self.mask if self.ptx_mask is None else self.mask | self.ptx_mask


def _outputs(hidden: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    values = (registry.new_result(hidden), registry.new_result(hidden, len(STATS)))
    return (*values, *_linear.gradient_outputs(hidden, weight, bias, rest[-1]))


@_linear.isolated
def _run(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ref_weight: Tensor | None,
    ref_bias: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, ...]:
    batch, denominators = _Batch(*rest[:8]), rest[8:10]
    scalars: Scalars = rest[10:16]
    softcap, chunk_bytes, compute, packed, wants = rest[16:]
    head = _linear.make_head(weight, bias, softcap, compute)
    reference = None
    if ref_weight is not None:
        reference = _linear.make_head(ref_weight, ref_bias, softcap, compute)
    chunks = _linear.plan_chunks(
        OP,
        None if packed else batch.counted(),
        hidden,
        head,
        chunk_bytes,
        held=1 + (reference is not None) + bool(softcap and any(wants)),
    )
    kept = batch.map(chunks.pack)
    checks.check_targets(OP, kept.targets, len(weight), kept.counted(), chunks.index)
    gradients = _linear.Gradients(hidden, weight, bias, wants, chunks, head)
    parts = _run_chunks(hidden, head, reference, chunks, kept, denominators, scalars, gradients)
    loss, values = merge_chunks(*parts, chunks, kept.mask, denominators[0])
    dtype = registry.result_dtype(hidden)
    return (loss.to(dtype), values.to(dtype), *gradients.finish())


def _run_chunks(
    hidden: Tensor,
    head: _linear.Head,
    reference: _linear.Head | None,
    chunks: _linear.Chunks,
    batch: _Batch,
    denominators: tuple[Tensor, Tensor],
    scalars: Scalars,
    gradients: _linear.Gradients,
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the losses and the statistics of the chunks; add up the gradients on the way."""
    wants = gradients.wanted
    objective = torch.ops.rlhf_kernels.ppo_loss_from_logits
    if wants:
        objective = torch.ops.rlhf_kernels.ppo_loss_from_logits_
    (space,) = chunks.new_workspaces(head, 1)
    (cap_space,) = chunks.new_workspaces(head, 1) if head.softcap and wants else (None,)
    (ref_space,) = chunks.new_workspaces(reference, 1) if reference else (None,)
    losses, stats = [], []
    for part in chunks:
        n = part.stop - part.start
        rows = chunks.hidden(hidden, part, head)
        bounded = None if cap_space is None else cap_space[:n]
        head.write_logits(rows, space[:n], bounded)
        here = batch.map(lambda x, part=part: x[part])
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


_operator = registry.define_composite(
    "linear_ppo_loss(Tensor hidden, Tensor weight, Tensor? bias, Tensor? ref_weight,"
    " Tensor? ref_bias, Tensor targets, Tensor old_logprobs, Tensor advantages, Tensor mask,"
    " Tensor? ref_logprobs, Tensor? ref_hidden, Tensor? ptx_mask, Tensor? temperatures,"
    " Tensor denominator, Tensor? ptx_denominator, float temperature, float cliprange,"
    " float entropy_coef, float kl_coef, float ptx_coef, str kl_estimator, float softcap,"
    " SymInt? chunk_bytes, ScalarType? compute, bool packed, bool[] wants)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _run,
    _outputs,
)
registry.forbid_gradient("linear_ppo_loss")


class _Loss(torch.autograd.Function):
    """The gradients come with the loss; backward scales them where they lie."""

    @staticmethod
    def forward(
        ctx: Any, wants: list[bool], hidden: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any
    ) -> tuple[Tensor, Tensor]:
        """Compute the loss and the gradients that are wanted."""
        loss, values, *grads = _operator(hidden, weight, bias, *rest, wants)
        ctx.save_for_backward(*grads)
        ctx.wants = wants
        ctx.inputs = 4 + len(rest)
        ctx.mark_non_differentiable(values)
        return loss, values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor, unused: Tensor) -> tuple[Tensor | None, ...]:
        """Scale in place, without a second [V, D]; that makes a second backward an error."""
        grads = []
        for grad, want in zip(ctx.saved_tensors, ctx.wants, strict=True):
            if want:
                _linear.scale_inplace(grad, upstream)
            grads.append(grad.detach() if want else None)
        return (None, *grads, *[None] * (ctx.inputs - 4))


def _make_denominators(
    denominator: float | Tensor | None,
    mask: Tensor,
    ptx_denominator: float | Tensor | None,
    ptx_mask: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Count the rows of both masks before the first chunk, where no number is given."""
    total = registry.make_denominator(denominator, mask)
    if ptx_mask is None:
        return total, None
    return total, registry.make_denominator(ptx_denominator, ptx_mask)


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

    Returns:
        `(loss, stats)` as `ppo_loss_from_logits` returns them, differentiable in `hidden`,
        `weight` and `bias`.

    Raises:
        ValueError: a shape, dtype or range is wrong, or `chunk_bytes` holds no row.
        RuntimeError: a second backward; the first one has used the gradients up.

    Source: InstructGPT section 3.5, equation 2; Schulman et al. 2017 (arXiv:1707.06347).
    """
    autocast = _linear.compute_dtype(hidden)
    checks.check_head(OP, hidden, weight, bias, autocast)
    checks.check_reference(OP, hidden, weight, ref_hidden, ref_weight)
    if ref_hidden is not None and ref_weight is not None:
        checks.check_head(OP, ref_hidden, ref_weight, ref_bias, autocast, "ref_")
    rows: dict[str, Any] = {
        "targets": targets,
        "old_logprobs": old_logprobs,
        "advantages": advantages,
        "mask": mask,
        "ref_logprobs": ref_logprobs,
    }
    checks.check_rows(OP, len(hidden), **rows, ptx_mask=ptx_mask, temperature=temperature)
    per_row, common, cap = _linear.split_scale(OP, temperature, logit_scale, softcap)
    batch = _Batch(**rows, ref_hidden=ref_hidden, ptx_mask=ptx_mask, temperatures=per_row).map(
        _rows.detached
    )
    arguments = (
        *(hidden, weight, bias),
        *(_rows.detached(ref_weight), _rows.detached(ref_bias)),
        *batch,
        *_make_denominators(denominator, mask, ptx_denominator, ptx_mask),
        *(common, cliprange, entropy_coef, kl_coef, ptx_coef, kl_estimator),
        *(cap, chunk_bytes, autocast, packed),
    )
    wants = _linear.wanted(hidden, weight, bias)
    if any(wants):
        loss, values = _Loss.apply(wants, *arguments)  # type: ignore[no-untyped-call]
    else:
        loss, values, *_ = _operator(*arguments, wants)
    has_reference = ref_logprobs is not None or ref_hidden is not None
    return loss, name_stats(values, has_reference, ptx_mask is not None)

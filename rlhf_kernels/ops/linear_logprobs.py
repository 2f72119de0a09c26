"""linear_logprobs: gather_logprobs of a linear head, its logits never held."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlhf_kernels import _registry as registry
from rlhf_kernels.ops import _linear, _linear_gradients, _rows
from rlhf_kernels.ops import _linear_checks as checks
from rlhf_kernels.ops.gather_logprobs import LogProbs

registry.declare("linear_logprobs", "composite")

OP = "linear_logprobs"
_gather = torch.ops.rlhf_kernels.gather_logprobs.default
_gather_backward = torch.ops.rlhf_kernels.gather_logprobs_backward_.default
_HEAD = "Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, Tensor? mask"
_OPTIONS = "float softcap, SymInt? chunk_bytes, ScalarType? compute"


def _outputs(hidden: Tensor, *_: Any) -> tuple[Tensor, ...]:
    n = len(hidden)
    return (*(registry.new_result(hidden, n) for _ in range(3)), _rows.new_saved(hidden))


@_linear.isolated
def _run(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    mask: Tensor | None,
    softcap: float,
    chunk_bytes: int | None,
    compute: torch.dtype | None,
    temperatures: Tensor | None,
    temperature: float,
) -> tuple[Tensor, ...]:
    head = _linear.make_head(weight, bias, softcap, compute)
    # As many rows as in the backward pass: a budget that it refuses is refused here.
    chunks = _linear.plan_chunks(OP, mask, hidden, head, chunk_bytes, held=2 if softcap else 1)
    packed = chunks.pack(targets)
    assert packed is not None
    checks.check_targets(OP, packed, len(weight), None, chunks.index)
    rows = chunks.pack(temperatures)
    results = () if chunks.whole else _start_results(hidden, chunks)
    (space,) = chunks.new_workspaces(head, 1)
    for part in chunks:
        logits = space[: part.stop - part.start]
        head.write_logits(chunks.hidden(hidden, part, head), logits)
        targets_here = chunks.cut(packed, part)
        temperatures_here = None if rows is None else chunks.cut(rows, part)
        with checks.headed(OP):
            values: tuple[Tensor, ...] = _gather(
                logits, targets_here, None, temperatures_here, temperature
            )
        if chunks.whole:
            return values
        for result, value in zip(results, values, strict=True):
            chunks.write(result, part, value)
    return results


def _start_results(hidden: Tensor, chunks: _linear.Chunks) -> tuple[Tensor, ...]:
    """Allocate results that chunks are written to; rows that take no part are 0."""
    results = _outputs(hidden)
    if chunks.index is not None:
        for result in results:
            result.zero_()
    return results


@_linear.isolated
def _run_backward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    mask: Tensor | None,
    softcap: float,
    chunk_bytes: int | None,
    compute: torch.dtype | None,
    rows: Tensor,
    grad_logprobs: Tensor,
    grad_entropy: Tensor,
    grad_logsumexp: Tensor,
    wants: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    head = _linear.make_head(weight, bias, softcap, compute)
    held = 2 if softcap else 1
    spared = _linear_gradients.spared_bytes(weight, head, wants)
    chunks = _linear.plan_chunks(OP, mask, hidden, head, chunk_bytes, held, spared)
    upstream = [chunks.pack(x) for x in (grad_logprobs, grad_entropy, grad_logsumexp)]
    packed, saved = chunks.pack(targets), chunks.pack(rows)
    assert packed is not None
    assert saved is not None
    gradients = _linear_gradients.Gradients(hidden, weight, bias, wants, chunks, head)
    spaces = chunks.new_workspaces(head, held)
    for part in chunks:
        logits, bounded = ([s[: part.stop - part.start] for s in spaces] + [None])[:2]
        assert logits is not None
        inputs = chunks.hidden(hidden, part, head)
        head.write_logits(inputs, logits, bounded)
        upstream_here = (chunks.cut(x, part) for x in upstream if x is not None)
        _gather_backward(*upstream_here, logits, chunks.cut(packed, part), chunks.cut(saved, part))
        head.undo_softcap(logits, bounded)
        gradients.add(logits, inputs, part)
    del spaces, logits, bounded
    return gradients.finish()


def _backward_outputs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return _linear_gradients.gradient_outputs(hidden, weight, bias, rest[-1])


_forward = registry.define_composite(
    f"linear_logprobs({_HEAD}, {_OPTIONS}, Tensor? temperatures, float temperature)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _run,
    _outputs,
)
_backward = registry.define_composite(
    f"linear_logprobs_backward({_HEAD}, {_OPTIONS}, Tensor rows, Tensor grad_logprobs,"
    " Tensor grad_entropy, Tensor grad_logsumexp, bool[] wants) -> (Tensor, Tensor, Tensor)",
    _run_backward,
    _backward_outputs,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:5], output[3])
    ctx.options = inputs[5:8]
    ctx.mark_non_differentiable(output[3])


def _gradient(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    *head, rows = ctx.saved_tensors
    wants = list(ctx.needs_input_grad[:3])
    upstream = _rows.fill_gradients(grads[:3])
    results = _backward(*head, *ctx.options, rows, *upstream, wants)
    return tuple(result if want else None for result, want in zip(results, wants, strict=True))


registry.define_gradient("linear_logprobs", _setup, _gradient)
registry.forbid_gradient("linear_logprobs_backward")


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    mask: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    chunk_bytes: int | None = None,
) -> LogProbs:
    """Compute `gather_logprobs` of the logits hidden @ weight.T + bias without holding them.

    z = softcap(logit_scale (hidden weight^T + bias)) / temperature, softcap(x) = c tanh(x / c);
    then logsumexp(z), z_y - logsumexp(z) and the entropy of softmax(z). The logits exist a chunk
    of rows at a time; the backward pass computes them again, four products in all.

    Args:
        hidden: [N, D] float32, bfloat16, float16 or float64; the products run in this dtype, with
            float32 sums of the weight's gradient. Under torch.autocast they run in its dtype, as
            those of torch.nn.Linear do, and the gradients keep the inputs' dtypes.
        weight: [V, D], dtype of `hidden` (under autocast any).
        targets: [N] int64 or int32; rows outside `mask` may hold anything, -100 included.
        bias: [V] or None.
        temperature: positive (at least 1e-4 times `logit_scale`), a number or [N].
        mask: bool [N], True counts. Other rows are left out before the products; they give 0 and
            get gradient 0. On CUDA finding them waits for the device: pass packed rows and None
            where that matters.
        logit_scale: a factor of the logits (Cohere's `logit_scale`, Granite's
            1 / `logits_scaling`).
        softcap: bound of the logits (Gemma's `final_logit_softcapping`), or None.
        chunk_bytes: memory for the chunk's logits; None for 26 MiB on the CPU, 4096 rows on CUDA.

    Returns:
        LogProbs(logprobs, entropy, logsumexp), each [N], nats, float32 (float64 for float64
        input), differentiable in `hidden`, `weight` and `bias`.

    Raises:
        ValueError: a shape, dtype or range is wrong, or `chunk_bytes` holds no row.
    """
    compute = _linear.compute_dtype(hidden)
    checks.check_head(OP, hidden, weight, bias, compute)
    checks.check_rows(OP, len(hidden), targets=targets, mask=mask, temperature=temperature)
    per_row, common, cap = _linear.split_scale(OP, temperature, logit_scale, softcap)
    head = (hidden, weight, bias, targets.contiguous(), _rows.dense(mask))
    results = _forward(*head, cap, chunk_bytes, compute, per_row, common)
    return LogProbs(*results[:3])

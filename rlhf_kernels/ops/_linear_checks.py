"""What the ops over a linear head refuse; every message names the argument and the fix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import torch
from torch import Tensor

from rlhf_kernels import _registry as registry


def fail(op: str, argument: str, problem: str) -> NoReturn:
    """Raise the error of one argument, worded as the native ops do."""
    raise ValueError(f"{op}: argument '{argument}' {problem}")


@contextmanager
def headed(op: str) -> Iterator[None]:
    """Head the errors of the ops called within with the name of the one that the user called."""
    try:
        yield
    except ValueError as error:
        problem = str(error).partition(": ")[2]
        raise ValueError(f"{op}: {problem}") from None


def shape_text(tensor: Tensor) -> str:
    """Return a shape as [2, 3]."""
    return str(list(tensor.shape))


def check_head(
    op: str,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    compute: torch.dtype | None,
    prefix: str = "",
) -> None:
    """Refuse a head that does not fit its hidden states; `prefix` is that of the argument names."""
    names = [prefix + name for name in ("hidden", "weight", "bias")]
    if hidden.ndim != 2:
        fail(op, names[0], f"must be [N, D], got {shape_text(hidden)}; call .flatten(0, -2)")
    dim = hidden.shape[1]
    if weight.ndim != 2 or weight.shape[1] != dim or len(weight) < 1:
        fail(op, names[1], f"must be [V, {dim}] with V >= 1, got {shape_text(weight)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        fail(op, names[2], f"must have shape [{len(weight)}], got {shape_text(bias)}")
    for name, tensor in zip(names, (hidden, weight, bias), strict=True):
        if tensor is None:
            continue
        if not tensor.is_floating_point():
            fail(op, name, f"must be floating, got {tensor.dtype}")
        if tensor.device != hidden.device:
            fail(op, name, f"is on {tensor.device}, but '{names[0]}' is on {hidden.device}")
        if compute is None and tensor.dtype != hidden.dtype:
            fail(
                op,
                name,
                f"is {tensor.dtype}, but '{names[0]}' is {hidden.dtype}; convert one of them, or"
                " run under torch.autocast",
            )


def check_reference(
    op: str, hidden: Tensor, weight: Tensor, ref_hidden: Tensor | None, ref_weight: Tensor | None
) -> None:
    """Refuse half a reference, or one over another vocabulary."""
    if (ref_hidden is None) != (ref_weight is None):
        missing = "ref_hidden" if ref_hidden is None else "ref_weight"
        fail(op, missing, "is missing: the exact KL needs both ref_hidden and ref_weight")
    if ref_hidden is None or ref_weight is None:
        return
    if len(ref_hidden) != len(hidden):
        fail(op, "ref_hidden", f"must have {len(hidden)} rows, got {shape_text(ref_hidden)}")
    if len(ref_weight) != len(weight):
        fail(op, "ref_weight", f"must have {len(weight)} rows, got {shape_text(ref_weight)}")
    if ref_hidden.dtype != hidden.dtype:
        fail(op, "ref_hidden", f"must be {hidden.dtype} as 'hidden' is, got {ref_hidden.dtype}")


def check_rows(op: str, n: int, **values: Tensor | float | None) -> None:
    """Refuse tensors that are not [N]; masks must be bool."""
    for name, value in values.items():
        if not isinstance(value, Tensor):
            continue
        if value.shape != (n,):
            fail(op, name, f"must have shape [{n}], got {shape_text(value)}")
        if name.endswith("mask") and value.dtype != torch.bool:
            fail(op, name, f"must be bool, got {value.dtype}")


def check_weight_grad(op: str, weight: Tensor, weight_grad: Tensor | None) -> None:
    """Refuse a tensor that the weight's gradient cannot be added to."""
    if weight_grad is None:
        return
    if weight_grad.shape != weight.shape:
        fail(
            op,
            "weight_grad",
            f"must have the shape of 'weight', {shape_text(weight)}, got {shape_text(weight_grad)}",
        )
    wide = registry.result_dtype(weight)
    if weight_grad.dtype != wide:
        fail(op, "weight_grad", f"must be {wide}, got {weight_grad.dtype}: sums need its bits")
    if weight_grad.device != weight.device:
        fail(op, "weight_grad", f"is on {weight_grad.device}, but 'weight' is on {weight.device}")
    if weight_grad.requires_grad:
        fail(op, "weight_grad", "requires a gradient itself; pass weight.grad or a plain tensor")


def check_targets(
    op: str, targets: Tensor, vocab: int, counted: Tensor | None, index: Tensor | None
) -> None:
    """Refuse a target outside [0, V) on a row that counts, by its number in the caller's batch.

    Args:
        op: for the error.
        targets: the targets of the rows that take part.
        vocab: V.
        counted: bool, which of those rows count; None for all.
        index: their numbers in the batch; None when they are all of it.
    """
    if targets.is_cuda:  # reading them would wait: there a bad target makes its results NaN
        return
    wrong = (targets < 0) | (targets >= vocab)
    if counted is not None:
        wrong &= counted
    if bool(wrong.any()):
        place = int(wrong.nonzero()[0])
        row = place if index is None else int(index[place])
        fail(
            op,
            "targets",
            f"must lie in [0, {vocab}) on rows that count, got {int(targets[place])} at row {row};"
            " mask that row or correct the id",
        )

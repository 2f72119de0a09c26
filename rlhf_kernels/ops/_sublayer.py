"""What the two halves of a layer share: which tensors have a kernel, and how those lie."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_PANEL = 64  # columns; csrc/cpu/row_table.h
_PAIRS = 32  # a multiple of it is the depth of a product by pairs of bf16
_WHOLE = 16  # a multiple of it are the columns that the kernels take


def has_kernel(hidden: Tensor, weight: Tensor) -> bool:
    """Say whether the kernel takes these: on a CPU (or meta), fp32 or fp64, whole vectors."""
    return (
        hidden.device.type in ("cpu", "meta")
        and hidden.device == weight.device
        and hidden.dtype in (torch.float32, torch.float64)
        and all(size % _WHOLE == 0 for size in (hidden.shape[-1], weight.shape[-1]))
    )


def panels(like: Tensor, rows: int, columns: int) -> Tensor:
    """Allocate a matrix in panels of 64 columns, the last one filled up with zeros."""
    made = like.new_empty((columns + _PANEL - 1) // _PANEL, rows, _PANEL)
    if rest := columns % _PANEL:
        made[-1, :, rest:] = 0
    return made


def laid_out(weight: Tensor) -> Tensor:
    """Return a matrix [in, out] in panels [out / 64, in, 64], the last one filled up with zeros."""
    size, columns = weight.shape
    filled = torch.nn.functional.pad(weight, (0, -columns % _PANEL))
    return filled.view(size, -1, _PANEL).transpose(0, 1).contiguous()


def laid_out_in_pairs(weight: Tensor) -> Tensor:
    """Return a matrix [in, out] rounded to bf16 in panels [out / 64, in / 2, 128].

    Two rows stand beside each other, element by element; what is filled up, to 32 rows and 64
    columns, is zeros.
    """
    size, columns = weight.shape
    filled = torch.nn.functional.pad(weight, (0, -columns % _PANEL, 0, -size % _PAIRS)).bfloat16()
    pairs = filled.view(len(filled) // 2, 2, -1, _PANEL).permute(2, 0, 3, 1)
    return pairs.reshape(pairs.shape[0], pairs.shape[1], 2 * _PANEL)


def check_matrices(op: str, **tensors: Tensor) -> None:
    """Refuse a weight that is no matrix, on whose shape the results' depend."""
    for name, tensor in tensors.items():
        if tensor.ndim != 2:
            raise ValueError(
                f"{op}: argument '{name}' must be a matrix, got shape {list(tensor.shape)}"
            )


def refuse_bf16(op: str, bf16: bool) -> None:
    """Refuse products in bf16 where torch computes, which has its own ways to ask for them."""
    if bf16:
        raise ValueError(
            f"{op}: bf16=True takes float32 on a CPU, with multiples of {_WHOLE} columns; use "
            "torch.autocast elsewhere"
        )


def straight(weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Lay out weights as the kernels take them: dense, a matrix along either dimension."""
    return tuple(
        x if x.is_contiguous() or (x.ndim == 2 and x.T.is_contiguous()) else x.contiguous()
        for x in weights
    )


def keep_for_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Save the tensors among the inputs and what the kernel kept beside its result."""
    tensors = [x for x in inputs if x is None or isinstance(x, Tensor)]
    ctx.numbers = inputs[len(tensors) :]
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*tensors, *output[1:])

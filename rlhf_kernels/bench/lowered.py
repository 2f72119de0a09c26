"""Cases of products in bf16 over float32 tensors: the layers' ops against autocast."""

from __future__ import annotations

import functools
from typing import Any

import torch

from rlhf_kernels.bench.providers import Function


def held(dtype: torch.dtype) -> torch.dtype:
    """Return what a case's tensors are in: float32 where its products are in bf16."""
    return torch.float32 if dtype == torch.bfloat16 else dtype


def pair(ours: Function, plain: Function, dtype: torch.dtype) -> tuple[Function, Function]:
    """Return both functions as a case of this dtype runs them."""
    if dtype != torch.bfloat16:
        return ours, plain

    def lowered(*arguments: Any, **settings: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return plain(*arguments, **settings)

    return functools.partial(ours, bf16=True), lowered

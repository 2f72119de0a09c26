"""Gradients of the tables of V rows, the embedding and the head, added up where they lie.

A backward pass through torch.nn.Embedding makes a second table, nearly all zeros, and where
embedding and head are one matrix autograd adds the gradients of both: with a vocabulary of 250000,
four tables where one is kept. Here the head's gradient goes to `weight.grad` chunk by chunk
(`rlhf_kernels`, `weight_grad`), and the embedding's as the rows that were looked up.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

#: Numbers of a table below which a second one costs less than a sparse gradient: .7 ms of a step of
#: SFT on `sort`, whose table has 4000.
_FEW = 1 << 18


def gradient_of(weight: Tensor) -> Tensor:
    """Return `weight.grad`, zeros where there is none yet."""
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad


def add_looked_up_rows(model: Any) -> None:
    """Have the embedding's gradient add its rows to `weight.grad`, with no table of its own.

    torch adds a sparse gradient to a dense one in place, row after row in the order of the tokens.
    A small table stays as it is, and on a GPU one with a padding index: it would wait to count its
    rows.
    """
    embedding = model.get_input_embeddings()
    if not isinstance(embedding, torch.nn.Embedding) or embedding.sparse:
        return
    if not embedding.weight.is_cuda and embedding.weight.numel() < _FEW:
        return
    if embedding.weight.is_cuda and embedding.padding_idx is not None:
        return
    embedding.sparse = True
    embedding.register_forward_hook(_prepare)


def _prepare(embedding: torch.nn.Module, _: Any, rows: Tensor) -> None:
    """Have a dense gradient made before the sparse one comes, which would else take its place."""
    weight: Tensor = embedding.weight  # type: ignore[assignment]
    if rows.requires_grad and weight.requires_grad:
        rows.register_hook(lambda _: _ensure(weight))


def _ensure(weight: Tensor) -> None:
    gradient_of(weight)

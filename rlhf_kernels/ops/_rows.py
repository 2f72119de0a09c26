"""What the ops over [N, V] logits share: saved row state, temperature, result allocation."""

from __future__ import annotations

import torch
from torch import Tensor

#: Columns of the float64 row state that a forward pass keeps for its backward pass (SavedRow).
SAVED_COLUMNS = 10


def new_saved(logits: Tensor) -> Tensor:
    """Allocate the row state [N, SAVED_COLUMNS], float64."""
    return torch.empty((logits.shape[0], SAVED_COLUMNS), dtype=torch.float64, device=logits.device)


def new_gradient(logits: Tensor) -> Tensor:
    """Allocate a dense gradient of the logits."""
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def fill_gradients(grads: tuple[Tensor | None, ...]) -> list[Tensor]:
    """Return the gradients of several results [N], dense; those that are None share zeros."""
    nothing = None
    filled = []
    for grad in grads:
        if grad is None:
            if nothing is None:
                nothing = torch.zeros_like(next(x for x in grads if x is not None))
            grad = nothing
        filled.append(grad.contiguous())
    return filled


def split_temperature(temperature: float | Tensor) -> tuple[Tensor | None, float]:
    """Return (per-row temperatures or None, the common temperature)."""
    if isinstance(temperature, Tensor):
        return temperature.detach().contiguous(), 1.0
    return None, float(temperature)


def dense(tensor: Tensor | None) -> Tensor | None:
    """Return the tensor made contiguous, or None."""
    return None if tensor is None else tensor.contiguous()


def detached(tensor: Tensor | None) -> Tensor | None:
    """Return the tensor outside the graph and contiguous, or None."""
    return None if tensor is None else tensor.detach().contiguous()

"""The last layer's feed-forward, computed only for positions whose hidden state is read.

A loss reads the positions that predict a response, a reward model the last token. After the last
layer's attention no position sees another, so the feed-forward of the others would be computed for
nothing: of three layers with prompts as long as answers a tenth of all products, of a reward
model's three layers a fifth. Hooks take the rows that count and put the results back among zeros.

Dims: B sequences, L positions, N positions that are read, D hidden.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from toolkit.spec.schema import Hardware

# Of a trial: what must stay the same, and what must not.
EXACT = 1e-5  # of the largest hidden state; fp32 gives 1e-7
POWER = 20.0  # what is left out must change the others so many times more
_MOST = 0.9  # share of positions read, above which choosing them costs more than it saves


class _Take(torch.autograd.Function):
    """Rows [N, D] of x [M, D]; no row is taken twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        ctx.count = len(x)
        ctx.save_for_backward(rows)
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return _spread(grad, rows, ctx.count), None


class _Put(torch.autograd.Function):
    """[M, D] with x [N, D] in its rows, zeros in the others."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(rows)
        return _spread(x, rows, count)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, *ctx.saved_tensors), None, None


def _spread(x: Tensor, rows: Tensor, count: int) -> Tensor:
    return x.new_zeros(count, x.shape[1]).index_copy_(0, rows, x)


def take_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Return rows [N, D] of x [M, D], each once; its gradient is a copy among zeros."""
    taken: Tensor = _Take.apply(x, rows)  # type: ignore[no-untyped-call]
    return taken


class LastLayer:
    """Hooks on one feed-forward module; `only` says which positions count.

    Args:
        mlp: takes and returns [B, L, D], each position by itself.
    """

    def __init__(self, mlp: torch.nn.Module) -> None:
        """Hook; outside `only` nothing changes."""
        self.rows: Tensor | None = None
        self.shape = torch.Size()
        self._handles = (
            mlp.register_forward_pre_hook(self._take),
            mlp.register_forward_hook(self._put),
        )

    @staticmethod
    def of(mlp: torch.nn.Module) -> LastLayer | None:
        """Return what is hooked to a module."""
        for hook in mlp._forward_pre_hooks.values():
            if isinstance(found := getattr(hook, "__self__", None), LastLayer):
                return found
        return None

    def remove(self) -> None:
        """Leave the module as it was."""
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def only(self, rows: Tensor, positions: int) -> Iterator[None]:
        """Compute `rows` [N] of the flattened [B, L] alone; every row once.

        All are computed where nearly all are read, and where none is: not every module takes none.

        Args:
            rows: int64, on the model's device.
            positions: B times L.
        """
        before = self.rows
        self.rows = rows if 0 < len(rows) <= _MOST * positions else None
        try:
            yield
        finally:
            self.rows = before

    def _take(self, _: torch.nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self.rows is None:
            return None
        x, *others = given
        self.shape = x.shape
        return (take_rows(x.flatten(0, -2), self.rows).unsqueeze(0), *others)

    def _put(self, _: torch.nn.Module, given: tuple[Any, ...], out: object) -> Tensor | None:
        if self.rows is None:
            return None
        if not isinstance(out, Tensor):
            raise TypeError(f"the feed-forward returns a {type(out).__name__}")
        count = math.prod(self.shape[:-1])
        whole: Tensor = _Put.apply(out.squeeze(0), self.rows, count)  # type: ignore[no-untyped-call]
        return whole.view(self.shape)


def wanted_last_layer(model: PreTrainedModel, hardware: Hardware) -> LastLayer | None:
    """Return the hooks unless the spec wants the plain model or activations computed again."""
    plain = not hardware.fused_head or hardware.gradient_checkpointing
    return None if plain else find_last_layer(model)


def read_trunk(
    model: PreTrainedModel, last: LastLayer | None, ids: Tensor, places: Tensor, **more: Tensor
) -> Tensor:
    """Return the hidden states [B, L, D] of `ids`, right at `places` of the flattened [B, L].

    Args:
        model: any; its trunk computes.
        last: hooks of its last layer.
        ids: int64 [B, L].
        places: int64 [N], each once.
        more: arguments of the trunk, where a mask is not plainly causal.
    """
    with only(last, places, ids.numel()):
        hidden: Tensor = model.base_model(ids, use_cache=False, **more)[0]
    return hidden


def only(last: LastLayer | None, places: Tensor, positions: int) -> AbstractContextManager[None]:
    """Return `last.only(places, positions)`, where there are hooks."""
    return nullcontext() if last is None else last.only(places, positions)


def find_last_layer(model: PreTrainedModel) -> LastLayer | None:
    """Return the hooks of the last layer's `mlp`; None where the model has none that can do it.

    Whether it can is tried on a few tokens: of their hidden states those that are read must stay
    the same, and the others must not, or nothing was tried.
    """
    blocks = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList)]
    layers = max(blocks, key=len, default=None)
    mlp = getattr(layers[-1], "mlp", None) if layers else None
    if not isinstance(mlp, torch.nn.Module):
        return None
    if found := LastLayer.of(mlp):  # another policy on the same model
        return found
    last = LastLayer(mlp)
    if _can_do(last, mlp, model):
        return last
    last.remove()
    return None


@torch.no_grad()
def _can_do(last: LastLayer, mlp: torch.nn.Module, model: PreTrainedModel) -> bool:
    was_training = model.training
    model.eval()
    ids = torch.arange(8, device=model.device).view(2, 4) % model.config.vocab_size
    rows = torch.tensor([1, 3, 6], device=model.device)
    try:
        plain = model.base_model(ids, use_cache=False)[0].flatten(0, 1)
        ours = read_trunk(model, last, ids, rows).flatten(0, 1)
        return _changes_nothing(ours, plain, rows) and _sees_no_other(mlp, model, ids, rows)
    except (RuntimeError, TypeError, ValueError, LookupError, AssertionError):
        return False  # it wants more than positions, or gives more
    finally:
        model.train(was_training)


def _changes_nothing(ours: Tensor, plain: Tensor, rows: Tensor) -> bool:
    error = (ours - plain).abs().amax(1)
    read = error[rows].max()
    tried = POWER * read < error.max()
    return bool(tried & (read <= EXACT * plain.abs().max()))


def _sees_no_other(mlp: torch.nn.Module, model: PreTrainedModel, ids: Tensor, rows: Tensor) -> bool:
    """Whether NaN put before the `mlp`, in the rows that are not read, stays in those.

    However little a row that is read depends on another it becomes NaN, by a weight of 0 too: a
    gate that training is to open.
    """
    others = torch.ones(ids.numel(), dtype=torch.bool, device=ids.device).index_fill_(0, rows, 0)

    def spoil(_: torch.nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *rest = given
        return (x.masked_fill(others.view(*x.shape[:-1], 1), torch.nan), *rest)

    handle = mlp.register_forward_pre_hook(spoil)
    try:
        hidden = model.base_model(ids, use_cache=False)[0].flatten(0, 1)
    finally:
        handle.remove()
    return torch.equal(hidden.isnan().any(1), others)

"""The keys and values of an answer's earlier tokens, in memory that is taken once.

transformers' own cache grows by concatenation: every token copies all before it. Here a layer takes
room for prompt and answer at its first use and writes into it; the model sees the part in use.
For steps that are recorded as CUDA graphs (graphs.py) it sees the whole room, under its mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
)


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer, [B, heads, positions in use, head size], inside `room`.

    Args:
        room: the most positions it will hold.
    """

    def __init__(self, room: int) -> None:
        """Hold nothing yet: the first keys tell shape, dtype and device."""
        super().__init__()
        self.room, self.used = room, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Take the memory."""
        self.device, self.dtype = key_states.device, held_dtype(key_states)
        self.held = [
            states.new_empty(*states.shape[:2], self.room, states.shape[3], dtype=self.dtype)
            for states in (key_states, value_states)
        ]
        self._show()
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Add positions; return all in use."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.used, self.used + key_states.shape[2]
        for held, states in zip(self.held, (key_states, value_states), strict=True):
            held[:, :, start:end] = states
        self.advance(end - start)
        return self.keys, self.values

    def take(self, like: Tensor, heads: int) -> tuple[Tensor, Tensor]:
        """Return the memory [B, heads, room, head size] of keys and values, for a kernel to write.

        Args:
            like: hidden states [B, L, D] of the first use.
            heads: how many.
        """
        if not self.is_initialized:
            none = like.new_empty(len(like), heads, 0, like.shape[2] // heads)
            self.lazy_initialization(none, none)
        keys, values = self.held
        return keys, values

    def holds(self, dtype: torch.dtype) -> bool:
        """Say whether it holds, or would hold, states of that dtype on a CPU as they are."""
        kind = (
            self.dtype
            if self.is_initialized
            else held_dtype(torch.empty(0, dtype=dtype, device="cpu"))
        )
        return kind == dtype

    def advance(self, count: int) -> None:
        """Have so many more positions in use."""
        self.used += count
        self._show()

    def get_seq_length(self) -> int:
        """Positions in use."""
        return self.used

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take sequences by their places: some, none twice, or some several times."""
        self.held = [held.index_select(0, beam_idx) for held in self.held]
        self._show()

    def _show(self) -> None:
        self.keys, self.values = (held[:, :, : self.used] for held in self.held)


class FixedLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer, [S, heads, R, head size], all of which the model sees.

    Nothing here depends on the step but numbers on the device, so a CUDA graph can hold it. The
    model's mask hides the positions after `place`.

    Args:
        keys, values: memory of theirs; finite everywhere.
        place: int64 [1], the position that is written next; whoever owns it moves it on.
    """

    is_compileable = True  # has transformers make a mask from `place`, and read no number

    def __init__(self, keys: Tensor, values: Tensor, place: Tensor) -> None:
        """Hold what is given."""
        super().__init__()
        self.keys, self.values, self.place = keys, values, place
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write one position; return all."""
        for held, states in ((self.keys, key_states), (self.values, value_states)):
            written(held, 2, self.place, states)
        return self.keys, self.values

    def get_seq_length(self) -> Tensor:
        """Positions before the one that is being written, a 0-d tensor."""
        return self.place[0]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length of the keys, and the position of the first."""
        return self.keys.shape[2], 0


def held_dtype(states: Tensor) -> torch.dtype:
    """Return the dtype that attention from one position will compute in.

    fp32 on a CPU (attention.py). Elsewhere that of the states, or what autocast would cast them to
    at every step: keys that were rotated are fp32 again.
    """
    kind = states.device.type
    if kind == "cpu":
        return torch.float32
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype


def written(held: Tensor, dim: int, place: Tensor, values: Tensor) -> None:
    """Write `values` to one place of `held` along `dim`.

    In torch's deterministic mode the same call would sort its one index first.
    """
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        held.index_copy_(dim, place, values.to(held.dtype))
    finally:
        torch.set_deterministic_debug_mode(mode)


def make_cache(model: PreTrainedModel, room: int, *, entire: bool = False) -> Cache:
    """Make an empty cache for `room` positions; layers of a kind of their own stay as they are.

    Args:
        model: whose layers it has.
        room: the most positions.
        entire: layers with a sliding window hold all positions too; the model's mask cuts them.
    """
    kinds = (DynamicLayer, DynamicSlidingWindowLayer) if entire else (DynamicLayer,)
    cache = DynamicCache(config=model.config)
    for i, layer in enumerate(cache.layers):
        if type(layer) in kinds:
            cache.layers[i] = RoomyLayer(room)
    return cache


def make_fixed_cache(
    model: PreTrainedModel, held: Sequence[tuple[Tensor, ...]], place: Tensor
) -> Cache:
    """Make a cache over (keys, values) of each layer, which writes at `place`."""
    cache = DynamicCache(config=model.config)
    cache.layers = [FixedLayer(keys, values, place) for keys, values in held]
    return cache

"""The keys and values of an answer's earlier tokens, in memory that is taken once.

transformers' own cache grows by concatenation: every token copies all before it. Here a layer takes
room for prompt and answer at its first use and writes into it; the model sees the part in use.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer


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
        """Take the memory; fp32 on a CPU, where attention from one position is computed in fp32."""
        self.device = key_states.device
        self.dtype = torch.float32 if self.device.type == "cpu" else key_states.dtype
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
        start, self.used = self.used, self.used + key_states.shape[2]
        for held, states in zip(self.held, (key_states, value_states), strict=True):
            held[:, :, start : self.used] = states
        self._show()
        return self.keys, self.values

    def get_seq_length(self) -> int:
        """Positions in use."""
        return self.used

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take sequences by their places: some, none twice, or some several times."""
        self.held = [held.index_select(0, beam_idx) for held in self.held]
        self._show()

    def _show(self) -> None:
        self.keys, self.values = (held[:, :, : self.used] for held in self.held)


def make_cache(model: PreTrainedModel, room: int) -> Cache:
    """Make an empty cache for `room` positions; layers of a kind of their own stay as they are."""
    cache = DynamicCache(config=model.config)
    for i, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[i] = RoomyLayer(room)
    return cache

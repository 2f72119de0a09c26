"""Sampling on a GPU in steps of one shape: recorded once as a CUDA graph, then replayed.

A small model's step is hundreds of kernels of microseconds, and launching them takes longer than
running them. Here everything that changes from step to step is a tensor on the device: the tokens,
the place in the cache that they are written to, the number of the draw. Attention is over the
cache's whole length under a mask. So one graph serves every step of a batch size and a length.

Dims: S sequences of a step (a size that later batches share), R positions of the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

import rlhf_kernels as rk
from toolkit.models import recording
from toolkit.models.cache import RoomyLayer, make_fixed_cache, written
from toolkit.models.heads import Policy
from toolkit.models.recording import Lowered, warn
from toolkit.spec.schema import Sampling

_SIZES = 8  # sequences that the sizes of a step are multiples of


@dataclass(frozen=True)
class Draw:
    """What every draw of a rollout shares; part of what is recorded."""

    seed: int
    sampling: Sampling
    eos: int


@dataclass(frozen=True)
class Given:
    """What a batch starts from, of n sequences with P positions read.

    Args:
        cache: keys and values of the prompts.
        width: P.
        mask: [n, P or more], what is real in the prompts; None where all is.
        tokens: int64 [n], drawn from the prompts.
        ids: int64 [n], the global index of each sequence.
        alive: bool [n], whose answer goes on.
    """

    cache: Cache
    width: int
    mask: Tensor | None
    tokens: Tensor
    ids: Tensor
    alive: Tensor


def sizes_of(count: int) -> list[int]:
    """Return the sizes of a step that so many sequences go through as they end, largest first.

    They depend on this number alone, not on batches before: a run that goes on from a checkpoint
    computes in the same shapes. All but the first are 8 times a power of 2.
    """
    sizes = [max(1, -(-count // _SIZES)) * _SIZES]
    power = 1 << sizes[0].bit_length()
    while (power := power // 2) >= _SIZES:
        if power <= 0.75 * sizes[-1]:
            sizes.append(power)
    return sizes


class Steps:
    """The tensors that a recorded step reads and writes, and the recordings by their size.

    Args:
        policy: the model.
        lowered: the weights that it computes with.
        pool: memory of recordings.
        draw: what every draw shares.
        given: a batch, the largest that these steps take.
        room: R.
    """

    def __init__(
        self, policy: Policy, lowered: Lowered, pool: Any, draw: Draw, given: Given, room: int
    ) -> None:
        """Take the memory; every size uses the first rows of it."""
        layers: list[Any] = given.cache.layers
        if not all(isinstance(layer, RoomyLayer) for layer in layers):
            kinds = sorted({type(x).__name__ for x in layers if not isinstance(x, RoomyLayer)})
            raise ValueError(f"its cache has layers of a kind of their own, {', '.join(kinds)}")
        self.draw, self.room = draw, room
        self.sizes = sizes_of(len(given.ids))
        self.now, self.count = self.sizes[0], 0
        device, rows = policy.device, self.sizes[0]
        # zeros: what no sequence has written is multiplied by a share of 0
        self.held = [
            tuple(x.new_zeros(rows, x.shape[1], room, x.shape[3]) for x in layer.held)
            for layer in layers
        ]
        self.mask = None
        if given.mask is not None:
            self.mask = given.mask.new_ones(rows, room)
        self.tokens = torch.zeros(rows, 1, dtype=torch.int64, device=device)
        self.ids, self.lacking = (self.tokens.new_zeros(rows) for _ in range(2))
        self.alive = torch.zeros(rows, dtype=torch.bool, device=device)
        self.place, self.number = (self.tokens.new_zeros(1) for _ in range(2))
        self.out = (
            self.tokens.new_zeros(room, rows),
            *(torch.zeros(room, rows, device=device) for _ in range(2)),
        )
        self.lowered, self.pool = lowered, pool
        self.recorded: dict[int, Callable[[], object]] = {}

    def fits(self, draw: Draw, given: Given, room: int) -> bool:
        """Say whether a batch can use these steps."""
        alike = self.draw == draw and (self.mask is not None or given.mask is None)
        return alike and self.room == room and sizes_of(len(given.ids))[0] <= len(self.ids)

    def load(self, policy: Policy, given: Given) -> None:
        """Take a batch up; its first tokens are drawn, the next step draws the second."""
        self.count, self.sizes = len(given.ids), sizes_of(len(given.ids))
        self.now = self.sizes[0]
        self.lowered.refresh()
        self._record(policy, self.now)
        self.place.fill_(given.width)
        self.number.fill_(1)
        self.alive.fill_(False)
        self.lacking.zero_()
        every, width = slice(self.count), given.width
        for mine, layer in zip(self.held, given.cache.layers, strict=True):
            for held, states in zip(mine, layer.held, strict=True):
                held[every, :, :width] = states[:, :, :width]
        if self.mask is not None:
            self.mask.fill_(1)
        if self.mask is not None and given.mask is not None:
            real = given.mask[:, :width]
            self.mask[every, :width] = real
            self.lacking[every] = width - real.sum(1)
        self.tokens[every, 0] = given.tokens.clamp(min=0)
        self.ids[every], self.alive[every] = given.ids, given.alive

    def run(self, times: int) -> None:
        """Draw so many tokens of every sequence."""
        for _ in range(times):
            self.recorded[self.now]()

    def left(self) -> int:
        """Return how many answers go on; it waits for the device."""
        return int(self.alive[: self.count].sum())

    def has_smaller(self, policy: Policy, left: int) -> bool:
        """Say whether a smaller size takes so many sequences; it is recorded where it is new."""
        size = self._size_for(left)
        if size == self.now:
            return False
        try:
            self._record(policy, size)
        except Exception as error:  # memory, for one
            self.sizes = [size for size in self.sizes if size >= self.now]
            warn(policy.model, error, f"for {size} sequences, so those that ended stay")
            return False
        return True

    def keep(self, stay: Tensor, used: int) -> None:
        """Go on with the sequences at `stay` in steps of a smaller size, which is recorded.

        Args:
            stay: int64, their places.
            used: positions of the cache that they have written.
        """
        rows = [x for x in (self.tokens, self.ids, self.lacking, self.mask) if x is not None]
        self.count, self.now = len(stay), self._size_for(len(stay))
        for target in rows:
            target[: self.count] = target.index_select(0, stay)
        for held in (x for layer in self.held for x in layer):
            held[: self.count, :, :used] = held[:, :, :used].index_select(0, stay)
        self.alive.fill_(False)
        self.alive[: self.count] = True

    def drawn(self, first: int, last: int) -> tuple[Tensor, ...]:
        """Return tokens, log-probs and entropies [last - first, n] of those draws."""
        return tuple(x[first:last, : self.count] for x in self.out)

    def _size_for(self, count: int) -> int:
        return min(size for size in self.sizes if size >= count)

    def _record(self, policy: Policy, size: int) -> None:
        """Record a step, unless it is; the runs before write where nothing is read."""
        if size in self.recorded:
            return
        state = (self.place, self.number, self.lacking, self.tokens, self.alive)
        before = [tensor.clone() for tensor in state]

        def aside() -> None:
            for tensor in (self.place, self.number, self.lacking):  # position 0: every model has it
                tensor.fill_(self.room - 1)

        cache = make_fixed_cache(
            policy.model, [tuple(x[:size] for x in layer) for layer in self.held], self.place
        )
        step = partial(self._step, policy, size, cache)
        try:
            self.recorded[size] = recording.capture(step, aside, self.pool)
        finally:
            for tensor, values in zip(state, before, strict=True):
                tensor.copy_(values)

    def _step(self, policy: Policy, size: int, cache: Cache) -> None:
        """Read the last tokens and draw the next; no shape and no number depends on the step."""
        with self.lowered.in_place(), recording.computing(policy.hardware, policy.device):
            logits = self._logits(policy, size, cache)
            sampling = self.draw.sampling
            out = rk.sample(
                logits,
                self.draw.seed,
                self.ids[:size],
                self.number.expand(size),
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
            )
        for held, values in zip(self.out, (out.tokens, out.logprobs, out.entropy), strict=True):
            written(held[:, :size], 0, self.number, values.unsqueeze(0))
        self.alive[:size].logical_and_(out.tokens != self.draw.eos)
        self.tokens[:size] = out.tokens.clamp(min=0).unsqueeze(1)
        self.place.add_(1)
        self.number.add_(1)

    def _logits(self, policy: Policy, size: int, cache: Cache) -> Tensor:
        """Return logits [S, V] of what follows the last tokens."""
        options: dict[str, Any] = {}
        known = policy.takes
        if "position_ids" in known:
            options["position_ids"] = (self.place - self.lacking[:size]).unsqueeze(1)
        if self.mask is not None:
            options["attention_mask"] = self.mask[:size]
        elif "position_ids" not in known:  # then its positions come from the mask
            options["attention_mask"] = self.ids.new_ones(size, self.room)
        if "logits_to_keep" in known:
            options["logits_to_keep"] = 1
        read = policy.model(self.tokens[:size], past_key_values=cache, use_cache=True, **options)
        logits: Tensor = read.logits[:, -1, : policy.vocab]
        return logits

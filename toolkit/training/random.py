"""Randomness as a function of position, never of history.

Every draw is keyed by blake2b of (seed, stage, round, purpose, step or global example index), so
that resuming needs no saved
generator state and a sequence's draws do not depend on the batch it sits in.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import torch


def key_of(*parts: int | str) -> int:
    """Hash `parts` to 128 bits, the same in every process and on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=16).digest(), "little")


class Stream:
    """The draws of one stage: `Stream(seed, "ppo", 1)`.

    Args:
        parts: what all draws of this stream have in common, such as seed, stage and round.
    """

    def __init__(self, *parts: int | str) -> None:
        """Fix the common part of every key."""
        self.parts = parts

    def numpy(self, *position: int | str) -> np.random.Generator:
        """Make the generator at `position`."""
        return np.random.Generator(np.random.Philox(key=key_of(*self.parts, *position)))

    def permutation(self, size: int, *position: int | str) -> np.ndarray:
        """Shuffle 0 ... size-1; int64 [size]."""
        return self.numpy(*position).permutation(size)

    def seed64(self, *position: int | str) -> int:
        """Return 64 bits at `position`: the key of a generator that counts for itself."""
        return key_of(*self.parts, *position) % 2**64

    def seed_torch(self, *position: int | str) -> None:
        """Seed torch's global generator, which dropout and new weights draw from."""
        torch.manual_seed(key_of(*self.parts, *position) % 2**63)


class Order:
    """Which example stands at a global position; each pass over the set is reshuffled.

    Args:
        stream: the stage's stream.
        size: examples in the set.
    """

    def __init__(self, stream: Stream, size: int) -> None:
        """Refuse an empty set: there would be nothing to shuffle."""
        if size < 1:
            raise ValueError("an order needs at least one example; the set is empty")
        self.stream, self.size = stream, size
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def take(self, start: int, count: int) -> list[int]:
        """Return the examples at global positions start ... start+count-1."""
        return [self._at(position) for position in range(start, start + count)]

    def _at(self, position: int) -> int:
        epoch, place = divmod(position, self.size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.stream.permutation(self.size, "order", epoch)
        return int(self._order[place])

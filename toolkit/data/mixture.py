"""Demonstrations mixed with pretraining text, example by example (InstructGPT C.3). No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Mixture:
    """How many of each kind stand in each batch of an epoch.

        texts(0 ... p-1) = floor(p * batch * share + 1/2)

    so every batch holds `batch` examples, and `share` of them, up to rounding over the whole epoch,
    are pieces of pretraining text. An epoch ends when each demonstration was seen once; its last
    batch may hold fewer of them.

    Args:
        batch: examples per step.
        share: of pretraining text, at least 0, below 1.
    """

    batch: int
    share: float

    def texts_before(self, place: int) -> int:
        """Pieces of text in the first `place` batches."""
        return math.floor(place * self.batch * self.share + 0.5)

    def demonstrations_before(self, place: int) -> int:
        """Demonstrations in the first `place` batches, where there are enough."""
        return place * self.batch - self.texts_before(place)

    def texts(self, place: int) -> int:
        """Pieces of text in batch `place`."""
        return self.texts_before(place + 1) - self.texts_before(place)

    def steps(self, demonstrations: int) -> int:
        """Batches of an epoch."""
        count = math.ceil(demonstrations / self.batch)
        while self.demonstrations_before(count) < demonstrations:
            count += 1
        return count

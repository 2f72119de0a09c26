"""Random numbers as a function of position: a generator for each (seed, purpose), by blake2b."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def digest_int(*parts: object) -> int:
    """Return a 64-bit integer that depends on `parts` and on nothing else.

    Args:
        parts: values whose `str` is stable, such as a seed and a purpose.
    """
    text = "\x1f".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def share(*parts: object) -> float:
    """Return a number in [0, 1) that depends on `parts` only; splits compare it with a share."""
    return digest_int(*parts) / 2.0**64


def make_generator(*parts: object) -> np.random.Generator:
    """Make a numpy generator seeded by `parts`, such as (task seed, "demonstrations")."""
    import numpy as np

    return np.random.default_rng(digest_int(*parts))

"""Bytes as people read them: what runs take of a disk or of memory, in one way everywhere."""

from __future__ import annotations

_UNITS = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def size_text(size: float) -> str:
    """Return bytes with three digits, in powers of 1000, such as 12.4 GB."""
    for unit, factor in _UNITS:
        if size >= factor:
            value = size / factor
            decimals = 2 if value < 10 else 1 if value < 100 else 0
            return f"{value:.{decimals}f} {unit}"
    return f"{size:.0f} B"

"""Numbers as a reader wants them: three significant digits, per cent, durations, sizes."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

from toolkit.pipeline.sizes import size_text

NONE = "-"


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether `value` is a finite number (a bool is none)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def plain(value: Any) -> str:
    """Return `value` with three significant digits, integers whole, "-" when it is not a number."""
    if not is_number(value):
        return NONE
    if isinstance(value, int) or (float(value).is_integer() and 1000 <= abs(value) < 1e15):
        return f"{int(value):,}"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size and size < 1e-3:
        return f"{value:.2e}"
    decimals = 3 if size < 1 else 2 if size < 100 else 1
    text = f"{value:.{decimals}f}"
    return text.replace("-", "", 1) if float(text) == 0 else text


def signed(value: Any) -> str:
    """Return `plain(value)` with a plus sign where it is above zero."""
    text = plain(value)
    return f"+{text}" if is_number(value) and value > 0 else text


def percent(share: Any, decimals: int = 0) -> str:
    """Return a share of 1 as per cent, such as "78 %"."""
    return f"{100 * share:.{decimals}f} %" if is_number(share) else NONE


def interval(low: Any, high: Any) -> str:
    """Return two shares as per cent in brackets, such as "[74, 82]"."""
    if not (is_number(low) and is_number(high)):
        return ""
    return f"[{100 * low:.0f}, {100 * high:.0f}]"


def duration(seconds: Any) -> str:
    """Return seconds as "12.3 s", "4 min 05 s" or "3 h 07 min"."""
    if not is_number(seconds):
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def memory(size: Any) -> str:
    """Return bytes as "12.4 GB"."""
    return size_text(size) if is_number(size) else NONE

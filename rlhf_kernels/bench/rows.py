"""One measurement, one row: its columns, and writing it as a table, CSV and JSON."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rlhf_kernels.bench.machine import Machine


@dataclass(frozen=True, kw_only=True)
class Row:
    """One provider on one case. None means not measured, and `note` then says why.

    Args:
        shape: "NxV", or "BxT" for ops on sequences; N, V and D are filled where they exist.
        mask_share: share of the rows or tokens that count.
        median_ms: of the timed runs; p10_ms and p90_ms are their 10th and 90th percentile, best_ms
            the shortest: on a busy machine what comes nearest to an undisturbed run.
        ratio: this provider's time divided by ours, run for run: the median of the pairwise
            ratios with their percentiles. Above 1 ours is faster.
        bytes_model: bytes that the op must move, each input read once and each output written once.
        gb_per_s: bytes_model / median time: what a perfect implementation would have moved.
        roofline_share: time that the bytes need at this process's bandwidth / median time; None
            when they fit in the caches.
        peak_memory_mib: held at the highest beyond the inputs, results included.
        max_error: largest absolute difference of a result from the float64 reference.
        max_grad_error: largest difference of a gradient, relative to its row's largest entry.
        clock: "wall", or "cpu" with one thread: time slices of other programs left out; or
            "events" of a GPU.
        graph_ms: per call in replays of a CUDA graph of many calls, which knows no launches;
            host_ms: per call by the host's clock over many calls. Of short calls on a GPU only.
        copies: of the inputs, rotated so that they leave the cache of a GPU between two runs.
        sm_mhz: clock of the multiprocessors at the end of the runs; memory_mhz: of the memory.
        first_call_s: the first call, compilation included; never part of the timed runs.
    """

    op: str
    provider: str
    mode: str
    shape: str
    N: int | None = None
    V: int | None = None
    D: int | None = None
    dtype: str
    mask_share: float = 1.0
    runs: int = 0
    clock: str = "wall"
    median_ms: float | None = None
    p10_ms: float | None = None
    p90_ms: float | None = None
    best_ms: float | None = None
    graph_ms: float | None = None
    host_ms: float | None = None
    ratio: float | None = None
    ratio_p10: float | None = None
    ratio_p90: float | None = None
    bytes_model: float = 0.0
    gb_per_s: float | None = None
    roofline_share: float | None = None
    peak_memory_mib: float | None = None
    max_error: float | None = None
    max_grad_error: float | None = None
    first_call_s: float | None = None
    copies: int | None = None
    sm_mhz: float | None = None
    memory_mhz: float | None = None
    note: str = ""


ROW_COLUMNS = [field.name for field in dataclasses.fields(Row)]
MACHINE_COLUMNS = [field.name for field in dataclasses.fields(Machine)]
COLUMNS = ROW_COLUMNS + MACHINE_COLUMNS


def to_record(row: Row, machine: Machine) -> dict[str, object]:
    """Return a row with the columns of its machine."""
    return dataclasses.asdict(row) | dataclasses.asdict(machine)


def append_csv(path: Path, rows: Sequence[Row], machine: Machine) -> None:
    """Append rows; a new file gets a header, an old one must have the same columns.

    Raises:
        ValueError: the file has other columns, so that its rows would not line up.
    """
    fresh = not path.exists() or path.stat().st_size == 0
    if not fresh:
        with path.open(encoding="utf-8", newline="") as file:
            found = next(csv.reader(file))
        if found != COLUMNS:
            raise ValueError(f"{path} has other columns than this version writes: name a new file")
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if fresh:
            writer.writeheader()
        writer.writerows(to_record(row, machine) for row in rows)


def to_json(rows: Sequence[Row], goals: Sequence[dict[str, object]], machine: Machine) -> str:
    """Return one document: the machine, the rows with all their columns, the goals."""
    document = {
        "machine": dataclasses.asdict(machine),
        "rows": [to_record(row, machine) for row in rows],
        "goals": list(goals),
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def format_number(value: float | None, digits: int = 3) -> str:
    """Return `value` with so many significant digits, without an exponent where it is readable."""
    if value is None:
        return ""
    if value == 0:
        return "0"
    if abs(value) < 1e-3 or abs(value) >= 1e6:
        return f"{value:.1e}"
    decimals = max(0, digits - 1 - int(f"{abs(value):e}".partition("e")[2]))
    return f"{value:.{decimals}f}"


def format_range(low: float | None, high: float | None) -> str:
    """Return "low-high", or nothing."""
    return "" if low is None else f"{format_number(low)}-{format_number(high)}"


HEADINGS = (
    "provider",
    "ms",
    "p10-p90",
    "best",
    "x ours",
    "p10-p90",
    "GB/s",
    "roof",
    "MiB",
    "error",
    "grad err",
)


def to_cells(row: Row) -> tuple[str, ...]:
    """Return what the table prints of a row; a row without a time prints its reason instead."""
    share = "" if row.roofline_share is None else f"{100 * row.roofline_share:.0f}%"
    memory = "" if row.peak_memory_mib is None else f"{row.peak_memory_mib:.1f}"
    return (
        row.provider,
        format_number(row.median_ms),
        format_range(row.p10_ms, row.p90_ms),
        format_number(row.best_ms),
        format_number(row.ratio),
        format_range(row.ratio_p10, row.ratio_p90),
        format_number(row.gb_per_s),
        share,
        memory,
        "" if row.max_error is None else f"{row.max_error:.1e}",
        "" if row.max_grad_error is None else f"{row.max_grad_error:.1e}",
    )


def tell_launches(row: Row) -> str:
    """Return what a short call on a GPU takes without its launches, and as a program sees it."""
    parts = []
    if row.graph_ms is not None:
        parts.append(f"{format_number(row.graph_ms)} ms in a graph")
    if row.host_ms is not None:
        parts.append(f"{format_number(row.host_ms)} ms with launches")
    return ", ".join(parts)


WIDTHS = (24, 7, 13, 7, 7, 11, 7, 5, 7, 8, 8)


def print_case(rows: Sequence[Row], out: TextIO) -> None:
    """Print the rows of one case under a heading; notes stand behind their row."""
    first = rows[0]
    masked = "" if first.mask_share == 1 else f", {100 * first.mask_share:.0f}% of rows count"
    print(f"\n{first.op} {first.mode}, {first.shape} {first.dtype}{masked}", file=out)
    print_cells(HEADINGS, out)
    for row in rows:
        if row.median_ms is None:
            print(f"  {row.provider:<{WIDTHS[0]}} - {row.note}", file=out)
        else:
            print_cells(to_cells(row), out, "; ".join(filter(None, [tell_launches(row), row.note])))
    out.flush()


def print_cells(cells: Sequence[str], out: TextIO, note: str = "") -> None:
    """Print one line of the table."""
    name, *numbers = cells
    line = f"  {name:<{WIDTHS[0]}}"
    line += "".join(f"{cell:>{width + 1}}" for cell, width in zip(numbers, WIDTHS[1:], strict=True))
    print(f"{line}  {note}".rstrip(), file=out)

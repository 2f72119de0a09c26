"""Print the goals as a table in Markdown, with a measured column per device.

    python -m rlhf_kernels.bench.table [docs/results/kernels.csv] [--write docs/KERNELS.md]

What no row of the file tells is "not measured"; numbers are never carried over between devices.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rlhf_kernels.bench.cases import OURS
from rlhf_kernels.bench.device_goals import DEVICE, make_device_goals
from rlhf_kernels.bench.goals import Goal, Verdict, judge, make_goals
from rlhf_kernels.bench.plot import draw_panels, group_by_case
from rlhf_kernels.bench.results import RESULTS, Record, latest_by_device, read_records
from rlhf_kernels.bench.rows import Row, format_number

MISSING = "not measured"
BEGIN = "<!-- python -m rlhf_kernels.bench.table: begin -->"
END = "<!-- end -->"


def make_tables(records: Sequence[Record]) -> str:
    """Return both tables: GPUs against the goals of an H200, and CPUs against theirs."""
    rows = latest_by_device(records)
    gpus = list(dict.fromkeys(machine.device for _, machine in records if machine.cuda))
    cpus = list(dict.fromkeys(machine.device for _, machine in records if not machine.cuda))
    if not any(DEVICE in device for device in gpus):
        gpus.insert(0, f"NVIDIA {DEVICE}")
    gpu_table = make_table(make_device_goals(), gpus, rows)
    return gpu_table + ("\n" + make_table(make_goals(), cpus, rows) if cpus else "")


def make_table(goals: Sequence[Goal], devices: Sequence[str], rows: dict[str, list[Row]]) -> str:
    """Return one table: a line per goal, a column per device."""
    lines = [
        "| goal | limit | " + " | ".join(devices) + " |",
        "|---|---|" + "---|" * len(devices),
    ]
    for goal in goals:
        cells = []
        for device in devices:
            found = rows.get(device, [])
            verdict = judge(goal, found)
            cells.append(describe(goal, verdict, find_share(goal, found), is_for(goal, device)))
        limit = judge(goal, []).limit
        lines.append(f"| {goal.text}, {goal.dtype} | {limit} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def is_for(goal: Goal, device: str) -> bool:
    """Say whether a device is the one a goal was set for: times hold for an H200 only."""
    return not goal.kind.endswith("_ms") or DEVICE in device


def describe(goal: Goal, verdict: Verdict, share: float | None, judged: bool) -> str:
    """Return a cell: the number, the share of the roofline, and whether the goal is met."""
    if verdict.measured is None:
        return MISSING
    text = format_number(verdict.measured)
    if goal.kind.endswith("_ms"):
        text += " ms"
        if share is not None:
            text += f", {100 * share:.0f} % of the roofline"
    return text + ("" if verdict.met or not judged else " (missed)")


def find_share(goal: Goal, rows: Sequence[Row]) -> float | None:
    """Return our share of the memory's roofline in the goal's case; it does not bind products."""
    for row in rows:
        case = (row.op, row.mode) == goal.case and row.shape == goal.shape
        whole = row.mask_share == 1.0 or not goal.dense
        if case and whole and row.dtype == goal.dtype and row.provider == OURS:
            return None if row.D else row.roofline_share
    return None


def replace_table(document: Path, table: str) -> None:
    """Put the tables between the two marks of a document.

    Raises:
        ValueError: the marks are not there.
    """
    text = document.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document} has no lines '{BEGIN}' and '{END}': add them")
    document.write_text(f"{before}{BEGIN}\n{table}{END}{after}", encoding="utf-8")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m rlhf_kernels.bench.table")
    parser.add_argument("file", type=Path, nargs="?", default=RESULTS, help="rows to read")
    parser.add_argument("--write", type=Path, metavar="DOCUMENT", help="put the tables into it")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw all devices' rows")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Print or write the tables of a results file."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    try:
        records = read_records(options.file)
        table = make_tables(records)
        if options.write:
            replace_table(options.write, table)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if not options.write:
        print(table, end="")
    if options.plot:
        if not records:
            parser.error(f"{options.file} has no rows to draw: measure with --append first")
        panels = {
            f"{device}: {title}": rows
            for device, found in latest_by_device(records).items()
            for title, rows in group_by_case(found).items()
        }
        draw_panels(options.plot, panels, str(options.file))
    return 0


if __name__ == "__main__":
    sys.exit(main())

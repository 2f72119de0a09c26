"""The report in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.report import tables
from toolkit.report.labelers import agreement_rows, fold_rows
from toolkit.report.load import Record
from toolkit.report.names import learner_of
from toolkit.report.numbers import duration, memory
from toolkit.report.rounds import ROUNDS, SELECTION, round_rows, selection_rows
from toolkit.report.summary import summarize

if TYPE_CHECKING:
    from rich.console import Console


def print_summary(run_dir: str | Path, console: Console | None = None) -> None:
    """Print how the run in `run_dir` came out; raises as `load_run`."""
    print_report(summarize(run_dir), console)


def print_report(report: Record, console: Console | None = None) -> None:
    """Print a report made by `build_report`."""
    from rich.console import Console
    from rich.text import Text

    out = console or Console()
    out.print(Text(f"\n{report['name']}: {report['headline']}", style="bold"))
    for warned in report["warnings"]:
        out.print(Text(f"warning, {warned['stage']}: {warned['text']}", style="yellow"))
    for text in report["missing"]:
        out.print(Text(f"not yet: {text}", style="dim"))
    header, rows = tables.comparison(report["evaluation"])
    if rows:
        print_table(out, header, rows)
        out.print(Text("* these weights decide the win rate", style="dim"))
    wins = tables.win_rates(report["evaluation"])
    if wins:
        head = (
            "judge",
            f"{learner_of(report['evaluation'])} wins",
            "95 %",
            "wins",
            "ties",
            "losses",
        )
        print_table(out, head, wins)
    accuracies = tables.accuracies(report["accuracy"])
    if accuracies:
        print_table(out, ("reward model orders rightly", "accuracy", "pairs"), accuracies)
    if agreement := agreement_rows(report["labels"]):
        print_table(out, ("order the same pair alike", "agreement", "pairs"), agreement)
    if folds := fold_rows(report["folds"]):
        print_table(out, ("folds: reward model orders rightly for", "accuracy", "pairs"), folds)
    if report["rounds"]:
        print_table(out, ROUNDS, round_rows(report["rounds"]))
    if selected := selection_rows(report["selection"]):
        print_table(out, SELECTION, selected)
    print_table(out, ("stage", "state", "steps", "time", "peak memory"), stage_rows(report))
    if found := report["deviations"]:
        count = f"{len(found['recipe'])} values of the recipe differ from {found['preset']}"
        out.print(Text(f"{count}; the page lists them", style="dim"))


def stage_rows(report: Record) -> list[tuple[str, ...]]:
    """Return (stage, state, steps, time, peak memory) for each stage."""
    return [
        (
            stage["name"],
            stage["state"],
            str(stage["steps"] or ""),
            duration(stage["seconds"]),
            _peak(stage),
        )
        for stage in report["stages"]
    ]


def _peak(stage: Record) -> str:
    """Return a stage's peak memory, and the GPU's where it ran there."""
    own = memory(stage["peak_memory"])
    there = stage["device_memory"]
    return own if there is None else f"{own}, GPU {memory(there)}"


def print_table(out: Console, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a header; nothing without rows."""
    if not rows:
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, title in enumerate(header):
        table.add_column(Text(title), justify="right" if index else "left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    out.print(table)

"""The settings side by side, the table, and the line-by-line record."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any

from specs.compare.processes import Bench
from specs.compare.rows import layout, side_by_side
from toolkit.pipeline.machine import cpu_name

Row = dict[str, Any]

COLUMNS = (
    "task", "system", "precision", "seed", "kl_coef", "sft_s", "reward_s", "ppo_s", "total_s",
    "collect_s", "episodes_per_s", "peak_gb", "sft_peak_gb", "reward_peak_gb", "ppo_peak_gb",
    "imports_gb", "reward_accuracy", "oracle_sft", "oracle_ppo", "exact_sft", "exact_ppo",
    "greedy_sft", "greedy_ppo", "kl_nats", "ended",
)  # fmt: skip
"""Figures of a row; None where a task has none."""

ABOUT = ("time", "commit", "cpu", "cores", "threads", "wait_policy", "load", "versions")

LATER = ("gpu", "gpu_peak_gb", "note")
"""What rows on a GPU add: its name, the most that tensors held, why a row has no figures."""

SHOWN = {
    "task": "task", "system": "system", "precision": "", "seed": "seed", "kl_coef": "kl",
    "sft_s": "SFT s", "reward_s": "RM s", "ppo_s": "PPO s", "total_s": "total s",
    "episodes_per_s": "episodes/s", "peak_gb": "peak GB", "reward_accuracy": "RM acc.",
    "oracle_sft": "oracle", "oracle_ppo": "-> PPO", "exact_sft": "exact", "exact_ppo": "-> PPO",
    "greedy_ppo": "greedy", "kl_nats": "KL", "gpu_peak_gb": "GPU GB", "note": "note",
}  # fmt: skip


COMPARED = {
    "total_s": "time", "episodes_per_s": "episodes/s", "peak_gb": "peak",
    "gpu_peak_gb": "GPU peak",
}  # fmt: skip


def print_settings(bench: Bench) -> None:
    """Print each stage's settings side by side; * marks a difference."""
    for stage in ("sft", "reward", "ppo"):
        systems = {name: s for (name, of), s in bench.settings.items() if of == stage}
        if systems:
            print("\n" + layout(side_by_side(stage, systems)))


def print_table(rows: list[Row]) -> None:
    """Print all rows, then each system against TRL."""
    heading = list(SHOWN.values())
    print("\n" + layout([heading, *([show(row.get(key)) for key in SHOWN] for row in rows)]))
    for line in ratios(rows):
        print(line)


def show(value: Any) -> str:
    """Write a figure with three or four digits."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def ratios(rows: list[Row]) -> list[str]:
    """Return sentences: a system's time, speed and memory as multiples of TRL's in the same run.

    Each is the median over seeds (repeats) of the ratio within one. TRL's row is of the same
    precision where it has one, else of fp32.
    """
    lines = []
    names = dict.fromkeys((r["task"], r["kl_coef"], r["system"], r["precision"]) for r in rows)
    for task, coef, system, precision in names:
        if system == "trl":
            continue
        mine = [r for r in rows if _is(r, task, coef, system, precision)]
        same = precision if (task, coef, "trl", precision) in names else "fp32"
        theirs = {r["seed"]: r for r in rows if _is(r, task, coef, "trl", same)}
        parts = []
        for key, text in COMPARED.items():
            both = [
                r[key] / theirs[r["seed"]][key]
                for r in mine
                if r["seed"] in theirs and r.get(key) and theirs[r["seed"]].get(key)
            ]
            if both:
                parts.append(f"{text} {median(both):.2f}x")
        if parts:
            lines.append(f"{task}, kl {coef:g}, {system} {precision} / TRL: {', '.join(parts)}")
    return lines


def _is(row: Row, task: str, coef: float, system: str, precision: str) -> bool:
    mine = (row["task"], row["kl_coef"], row["system"], row["precision"])
    return mine == (task, coef, system, precision)


def record(path: Path, rows: list[Row], bench: Bench) -> None:
    """Append rows to a CSV, each with machine, versions and commit."""
    about = describe(bench)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow([*COLUMNS, *ABOUT, *LATER])
        for row in rows:
            told = bench.versions.get(row["system"], {})  # a system may never have finished
            versions = " ".join(f"{k}={v}" for k, v in told.items())
            figures, later = ([_cell(row.get(key)) for key in keys] for keys in (COLUMNS, LATER))
            writer.writerow([*figures, *about, versions, *later])


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def describe(bench: Bench) -> list[str]:
    """Return the values of ABOUT but the last."""
    return [
        datetime.now(timezone.utc).isoformat(timespec="seconds"),
        commit(),
        cpu_name(),
        str(len(os.sched_getaffinity(0))),
        str(bench.threads),
        os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        f"{bench.load:.2f}",
    ]


def commit() -> str:
    """Return the commit, with + when files differ from it; unknown outside a checkout."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    done = subprocess.run(
        [git, "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() or "unknown"

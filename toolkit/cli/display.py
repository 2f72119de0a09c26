"""Show a run's progress: a live line in a terminal, now and then a plain line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PLAIN_EVERY = 5.0
"""Seconds between two plain lines of one stage."""

SHOWN: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss", ("loss",)),
    ("accuracy", ("accuracy",)),
    ("score", ("objective/score",)),
    ("oracle", ("objective/oracle", "oracle")),
    ("kl", ("objective/kl", "kl")),
    ("ptx", ("ptx/loss",)),
)
"""Figure -> names under which a stage may report it."""


def figures(metrics: Mapping[str, float]) -> str:
    """Return the figures of a step worth a look, such as "loss 0.52  kl 1.3"."""
    found = []
    for label, names in SHOWN:
        value = next((metrics[name] for name in names if name in metrics), None)
        if value is not None:
            found.append(f"{label} {value:.4g}")
    return "  ".join(found)


def clock(seconds: float) -> str:
    """Return a duration as 42s, 3m20s or 2h05m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


class Pace:
    """Speed and time left of a stage, from the steps this process has seen."""

    def __init__(self) -> None:
        """Start the clock."""
        self.start = time.monotonic()
        self.first: int | None = None
        self.tokens = 0.0

    def text(self, step: int, total: int, metrics: Mapping[str, float]) -> str:
        """Return speed and time left, such as "5120 tokens/s  3m20s left"; "" at the first step."""
        if self.first is None:
            self.first, self.start = step, time.monotonic()
            return ""
        self.tokens += metrics.get("tokens", 0.0)
        seen, seconds = step - self.first, time.monotonic() - self.start
        if seen <= 0 or seconds <= 0:
            return ""
        rate = f"{self.tokens / seconds:.0f} tokens/s" if self.tokens else f"{seen / seconds:.3g}/s"
        return f"{rate}  {clock(seconds / seen * (total - step))} left"


class PlainDisplay:
    """Lines of text, at most one per PLAIN_EVERY seconds and stage, for logs and pipes."""

    def __init__(self, stream: TextIO | None = None, every: float = PLAIN_EVERY) -> None:
        """Write to `stream` (stderr when None)."""
        self.stream = stream or sys.stderr
        self.every = every
        self.name, self.shown, self.pace = "", 0.0, Pace()

    def say(self, text: str) -> None:
        """Show one sentence."""
        print(text, file=self.stream, flush=True)

    def begin(self, name: str, why: str) -> None:
        """Start showing stage `name`."""
        self.name, self.shown, self.pace = name, time.monotonic(), Pace()
        self.say(f"{name}: {why}")

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Show a step, if the last line is old enough."""
        pace = self.pace.text(step, total, metrics)
        if time.monotonic() - self.shown < self.every:
            return
        self.shown = time.monotonic()
        parts = (self.name, f"{step}/{total}", figures(metrics), pace)
        self.say("  ".join(part for part in parts if part))

    def end(self, name: str, outcome: str) -> None:
        """Stop showing stage `name`."""
        self.say(f"{name}: {outcome}")


class RichDisplay:
    """One live line per running stage, sentences above it."""

    def __init__(self) -> None:
        """Make the live display; nothing is drawn before the first stage."""
        from rich.console import Console

        self.console = Console(stderr=True)
        self.progress: Progress | None = None
        self.task: TaskID | None = None
        self.pace = Pace()

    def say(self, text: str) -> None:
        """Show one sentence."""
        self.console.print(text, markup=False, highlight=False)

    def begin(self, name: str, why: str) -> None:
        """Start showing stage `name`."""
        from rich.progress import BarColumn, Progress, TextColumn

        self.say(f"{name}: {why}")
        self.pace = Pace()
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}", markup=False),
            TextColumn("{task.fields[figures]}", markup=False),
            TextColumn("{task.fields[pace]}", markup=False),
            console=self.console,
            transient=True,
        )
        self.task = self.progress.add_task(name, total=0, figures="", pace="")
        self.progress.start()

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Show a step."""
        if self.progress is None or self.task is None:
            return
        self.progress.update(
            self.task,
            completed=step,
            total=total,
            figures=figures(metrics),
            pace=self.pace.text(step, total, metrics),
        )

    def end(self, name: str, outcome: str) -> None:
        """Stop showing stage `name`."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None
        self.say(f"{name}: {outcome}")


class QuietDisplay(PlainDisplay):
    """Beginnings and ends only: for `log` without `console`."""

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Show nothing."""


def make_display(log: Sequence[str]) -> PlainDisplay | RichDisplay:
    """Return the display that fits `log` and where stderr goes."""
    if "console" not in log:
        return QuietDisplay()
    return RichDisplay() if sys.stderr.isatty() else PlainDisplay()

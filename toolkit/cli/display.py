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
    ("loss", ("loss", "loss/policy/avg")),
    ("accuracy", ("accuracy",)),
    ("score", ("objective/scores", "objective/score")),
    ("oracle", ("objective/oracle", "oracle")),
    ("kl", ("objective/kl", "kl")),
    ("ptx", ("loss/ptx", "ppo/loss/ptx", "ptx_loss")),
    ("tokens/s", ("tokens_per_second", "tokens/s")),
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
    """Time left of a stage, from the steps this process has seen."""

    def __init__(self) -> None:
        """Start the clock."""
        self.start = time.monotonic()
        self.first: int | None = None

    def left(self, step: int, total: int) -> str:
        """Return the time left after `step` of `total`, "" before two steps are seen."""
        if self.first is None:
            self.first, self.start = step, time.monotonic()
        seen = step - self.first
        if seen <= 0:
            return ""
        return clock((time.monotonic() - self.start) / seen * (total - step))


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
        left = self.pace.left(step, total)
        if time.monotonic() - self.shown < self.every:
            return
        self.shown = time.monotonic()
        eta = f"  {left} left" if left else ""
        self.say(f"{self.name}  {step}/{total}  {figures(metrics)}{eta}")

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
            TextColumn("{task.fields[left]}", markup=False),
            console=self.console,
            transient=True,
        )
        self.task = self.progress.add_task(name, total=0, figures="", left="")
        self.progress.start()

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Show a step."""
        if self.progress is None or self.task is None:
            return
        left = self.pace.left(step, total)
        self.progress.update(
            self.task,
            completed=step,
            total=total,
            figures=figures(metrics),
            left=f"{left} left" if left else "",
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

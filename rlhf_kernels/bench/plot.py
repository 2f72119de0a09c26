"""Draw the rows: one panel per case, one bar per provider; every axis starts at zero."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf_kernels.bench.cases import OURS
from rlhf_kernels.bench.machine import Machine
from rlhf_kernels.bench.rows import Row, format_number

OUR_COLOR = "#1b6ca8"
OTHER_COLOR = "#b8bcc2"


def draw_plot(path: Path, rows: Sequence[Row], machine: Machine) -> None:
    """Write a picture of one run; the format follows the name's ending (png, svg, pdf)."""
    where = [machine.device]
    where += [] if machine.cuda else [f"{machine.threads} threads"]
    where += [machine.isa] if machine.isa else []
    draw_panels(path, group_by_case(rows), f"{', '.join(where)}, torch {machine.torch}")


def draw_panels(path: Path, panels: dict[str, list[Row]], title: str) -> None:
    """Write a picture of panels, each with its title."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    heights = [len(group) + 1.6 for group in panels.values()]
    figure, axes = pyplot.subplots(
        len(panels),
        figsize=(9, 0.32 * sum(heights) + 0.8),
        gridspec_kw={"height_ratios": heights},
        layout="constrained",
        squeeze=False,
    )
    for axis, (name, group) in zip(axes[:, 0], panels.items(), strict=True):
        draw_panel(axis, name, group)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=140)
    pyplot.close(figure)


def group_by_case(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return title -> the rows with a time, cases without one left out."""
    panels: dict[str, list[Row]] = {}
    for row in rows:
        if row.median_ms is None:
            continue
        masked = "" if row.mask_share == 1 else f", {100 * row.mask_share:.0f}% of rows count"
        title = f"{row.op} {row.mode}, {row.shape} {row.dtype}{masked}"
        panels.setdefault(title, []).append(row)
    return panels


def draw_panel(axis: Any, title: str, rows: Sequence[Row]) -> None:
    """Draw one case: median as a bar, p10 to p90 as a line, the ratio to ours as text."""
    for position, row in enumerate(rows):
        assert row.median_ms is not None
        assert row.p10_ms is not None
        assert row.p90_ms is not None
        ours = row.provider == OURS
        axis.barh(position, row.median_ms, color=OUR_COLOR if ours else OTHER_COLOR)
        axis.plot([row.p10_ms, row.p90_ms], [position, position], color="black", linewidth=1)
        label = f" {format_number(row.median_ms)} ms"
        label += "" if ours else f" ({format_number(row.ratio)}x ours)"
        axis.text(max(row.median_ms, row.p90_ms), position, label, va="center", fontsize=8)
    axis.set_yticks(range(len(rows)), [row.provider for row in rows], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.3 * max(row.p90_ms or 0.0 for row in rows))
    axis.tick_params(axis="x", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title(title, fontsize=9, loc="left")

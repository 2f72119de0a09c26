"""Plots as inline SVG: matplotlib draws, `inline` makes the result fit to stand inside a page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from toolkit.report.load import Record
from toolkit.report.numbers import is_number, plain
from toolkit.report.panels import Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TONES = {"main": "#0b62a4", "second": "#c2410c", "third": "#64748b"}
SFT_TONE, PPO_TONE = "#94a3b8", "#0b62a4"
MOST_POINTS = 400

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": "#475569",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e2e8f0",
    "grid.linewidth": 0.6,
    "xtick.color": "#475569",
    "ytick.color": "#475569",
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "text.color": "#0f172a",
    "text.parse_math": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.formatter.useoffset": False,
}


@contextmanager
def svg_figure(width: float = 4.2, height: float = 2.15) -> Iterator[Figure]:
    """Open a figure of this size in inches, in the report's style."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def draw_panel(panel: Panel, metrics: Sequence[Record]) -> str:
    """Return one small plot of a stage's metrics as SVG; "" when it has none of them."""
    drawn = [(line, curve(metrics, line.metric)) for line in panel.lines]
    drawn = [(line, points) for line, points in drawn if points]
    if not drawn:
        return ""
    with svg_figure() as figure:
        axes = figure.subplots()
        for line, points in drawn:
            _draw_curve(axes, points, line.label, TONES[line.tone])
        if panel.level is not None:
            axes.axhline(
                panel.level, color="#94a3b8", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1
            )
        if panel.log and all(y > 0 for _, points in drawn for _, y in points):
            _make_log(axes)
        _finish_axes(axes, "iteration" if panel.kind == "ppo" else "step", len(drawn))
        return inline(figure, panel.kind + panel.title)


def _make_log(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _finish_axes(axes: Axes, label: str, lines: int) -> None:
    """Whole numbers below; the legend above, where it covers nothing."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_xlabel(label)
    if lines > 1:
        place = {"loc": "lower left", "bbox_to_anchor": (0.0, 0.99), "borderpad": 0.1}
        axes.legend(ncols=lines, handlelength=1.4, columnspacing=1.4, **place)


def curve(metrics: Sequence[Record], name: str) -> list[tuple[float, float]]:
    """Return (step, value) of one metric, finite only; over 400 of them: means of neighbours."""
    points = [
        (float(line.get("step", index)), float(line[name]))
        for index, line in enumerate(metrics)
        if is_number(line.get(name))
    ]
    return _thin(points, MOST_POINTS)


def _thin(points: list[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    if len(points) <= most:
        return points
    size = -(-len(points) // most)
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [(p[-1][0], sum(y for _, y in p) / len(p)) for p in parts]


def _draw_curve(axes: Axes, points: list[tuple[float, float]], label: str, colour: str) -> None:
    """Draw the values; over 40 of them also their running mean, with the values pale behind it."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    if len(points) <= 40:
        axes.plot(xs, ys, color=colour, label=label, linewidth=1.5, marker="o", markersize=2.2)
        return
    axes.plot(xs, ys, color=colour, linewidth=0.7, alpha=0.3)
    axes.plot(xs, running_mean(ys, len(ys) // 25), color=colour, label=label, linewidth=1.6)


def running_mean(values: Sequence[float], reach: int) -> list[float]:
    """Return the mean of up to `reach` neighbours on each side, and the value itself."""
    spans = ((max(0, i - reach), min(len(values), i + reach + 1)) for i in range(len(values)))
    return [sum(values[a:b]) / (b - a) for a, b in spans]


def draw_frontier(points: Sequence[Record]) -> str:
    """Return what PPO bought with its KL as SVG: the reward model's score, beside it the oracle's.

    Args:
        points: {"step", "kl", "score", "oracle"?} of each iteration; "" below two of them.
    """
    if len(points) < 2:
        return ""
    judges = [("score", "reward model's score", TONES["main"])]
    if all(is_number(point.get("oracle")) for point in points):
        judges.append(("oracle", "oracle score", TONES["second"]))
    with svg_figure(4.4 * len(judges), 2.5) as figure:
        for axes, (key, label, colour) in zip(
            figure.subplots(1, len(judges), squeeze=False)[0], judges, strict=True
        ):
            _draw_path(axes, [p["kl"] for p in points], [p[key] for p in points], colour)
            axes.set_xlabel("KL to the reference, nats per answer")
            axes.set_title(label, fontsize=9)
        return inline(figure, "frontier")


def _draw_path(axes: Axes, xs: Sequence[float], ys: Sequence[float], colour: str) -> None:
    """Draw each iteration as a dot, pale to full with time, and their running mean."""
    from matplotlib.colors import to_rgba

    count = len(xs)
    tones = [to_rgba(colour, 0.15 + 0.6 * i / count) for i in range(count)]
    axes.scatter(xs, ys, color=tones, s=10, linewidths=0)
    reach = max(1, count // 12)
    smooth = list(zip(running_mean(xs, reach), running_mean(ys, reach), strict=True))
    axes.plot(*zip(*smooth, strict=True), color="#0f172a", linewidth=1.3)
    for place, text in ((smooth[0], "start"), (smooth[-1], "end")):
        axes.annotate(text, place, xytext=(6, -11), textcoords="offset points", weight="bold")


def draw_judges(models: Record, names: Sequence[tuple[str, str]]) -> str:
    """Return bars of what reward model and oracle think of each model; "" without an oracle."""
    judges = (
        ("reward", "reward model's score"),
        ("oracle", "oracle score"),
        ("exact", "exact answers"),
    )
    shown = [j for j in judges if all(is_number(models[n].get(j[0])) for n, _ in names)]
    if len(names) < 2 or "oracle" not in dict(shown):
        return ""
    with svg_figure(1.9 * len(shown), 2.2) as figure:
        for axes, (judge, title) in zip(figure.subplots(1, len(shown)), shown, strict=True):
            values = [models[n][judge] for n, _ in names]
            tones = [SFT_TONE if n == "sft" else PPO_TONE for n, _ in names]
            bars = axes.bar([label for _, label in names], values, color=tones, width=0.6)
            axes.bar_label(bars, labels=[plain(v) for v in values], padding=2, fontsize=8.5)
            axes.axhline(0, color="#94a3b8", linewidth=0.8)
            axes.margins(y=0.18)
            axes.set_title(title, fontsize=8.5)
            axes.grid(False)
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
        return inline(figure, "judges")


def draw_histogram(histogram: Record) -> str:
    """Return the reward model's scores on held-out answers as SVG; "" without a histogram."""
    edges, counts = histogram.get("edges") or [], histogram.get("counts") or []
    if not counts or len(edges) != len(counts) + 1:
        return ""
    with svg_figure() as figure:
        axes = figure.subplots()
        axes.stairs(counts, edges, fill=True, color="#93b8d8", edgecolor=TONES["main"])
        axes.axvline(0, color="#64748b", linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_xlabel("reward model's score")
        axes.set_ylabel("answers")
        return inline(figure, "histogram")


def inline(figure: Figure, name: str) -> str:
    """Return a figure as an <svg> element without prolog and name spaces, its ids its own."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(
        r'<svg\b[^>]*?(viewBox="[^"]*")[^>]*>',
        rf'<svg \1 role="img" aria-label="{name}">',
        svg,
        count=1,
    )
    return _own_ids(svg, re.sub(r"\W+", "-", name.lower()))


def _own_ids(svg: str, prefix: str) -> str:
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", svg)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", svg)

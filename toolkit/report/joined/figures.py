"""Figures of the joined report as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from toolkit.report.load import Record
from toolkit.report.numbers import is_number
from toolkit.report.plots import TONES, inline, running_mean, svg_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = ("#0b62a4", "#c2410c", "#15803d", "#7c3aed", "#64748b")


def draw_models(models: Sequence[Record], key: str, label: str) -> str:
    """Return one figure of each model: a bar at the mean, a dot for each seed; "" without values.

    Args:
        models: as in the joined record.
        key: a figure with mean and by_seed.
        label: what it is, below the bars.
    """
    shown = [m for m in models if m.get(key)]
    if len(shown) < 2:
        return ""
    with svg_figure(4.6, 0.5 + 0.26 * len(shown)) as figure:
        axes = figure.subplots()
        places = list(range(len(shown)))[::-1]
        axes.barh(places, [m[key]["mean"] for m in shown], color="#93b8d8", height=0.62)
        for place, model in zip(places, shown, strict=True):
            values = list(model[key]["by_seed"].values())
            axes.scatter(values, [place] * len(values), color=TONES["main"], s=11, zorder=3)
        axes.set_yticks(places, [m["name"] for m in shown])
        axes.set_xlabel(label)
        axes.grid(visible=False, axis="y")
        return inline(figure, "models " + key)


def draw_elo(models: Sequence[Record]) -> str:
    """Return Elo with intervals, the best above; "" for fewer than two rated models."""
    rated = sorted((m for m in models if m.get("elo")), key=lambda m: m["elo"]["elo"])
    if len(rated) < 2:
        return ""
    with svg_figure(4.6, 0.5 + 0.26 * len(rated)) as figure:
        axes = figure.subplots()
        for place, model in enumerate(rated):
            elo = model["elo"]
            axes.plot([elo["low"], elo["high"]], [place, place], color=TONES["main"], linewidth=2)
            axes.scatter([elo["elo"]], [place], color=TONES["main"], s=18, zorder=3)
        axes.set_yticks(range(len(rated)), [m["name"] for m in rated])
        axes.set_xlabel("Elo")
        return inline(figure, "elo")


def draw_sweep(sweep: Record, measures: Sequence[tuple[str, str]]) -> str:
    """Return each measure over the swept coefficient, side by side; "" without any.

    Args:
        sweep: {"path", "points"}; coefficients stand evenly spaced, since 0 has no logarithm.
        measures: (figure, title).
    """
    points = sweep["points"]
    known = [m for m in measures if all(is_number(p.get(m[0])) for p in points)]
    if not known:
        return ""
    with svg_figure(2.5 * len(known), 2.1) as figure:
        panels = figure.subplots(1, len(known), squeeze=False)[0]
        for axes, (key, title) in zip(panels, known, strict=True):
            values = [p[key] for p in points]
            places = range(len(points))
            axes.plot(places, values, color=TONES["main"], marker="o", markersize=3.5)
            axes.set_xticks(places, [f"{p['value']:g}" for p in points])
            axes.set_xlabel(sweep["path"])
            axes.set_title(title, fontsize=9)
        return inline(figure, f"sweep {sweep['path']} {sweep['seed']}")


def draw_frontiers(curves: Sequence[Record]) -> str:
    """Return the reward model's score and the oracle's over KL, a colour for each variant."""
    shown = [c for c in curves if len(c["points"]) >= 2]
    if not shown:
        return ""
    judges = [("score", "reward model's score")]
    if all(is_number(p.get("oracle")) for c in shown for p in c["points"]):
        judges.append(("oracle", "oracle's score"))
    names = list(dict.fromkeys(c["run"] for c in shown))
    with svg_figure(4.4 * len(judges), 2.6) as figure:
        panels = figure.subplots(1, len(judges), squeeze=False)[0]
        for axes, (key, title) in zip(panels, judges, strict=True):
            said: set[str] = set()
            for curve in shown:
                colour, name = LINES[names.index(curve["run"]) % len(LINES)], curve["run"]
                label = None if name in said else name
                said.add(name)
                _draw_path(axes, curve["points"], key, colour, label)
            axes.set_xlabel("KL to the reference, nats per answer")
            axes.set_title(title, fontsize=9)
        panels[0].legend(loc="lower right")
        return inline(figure, "frontiers")


def _draw_path(
    axes: Axes, points: Sequence[Record], key: str, colour: str, label: str | None
) -> None:
    """Draw the iterations pale, and their running mean with a ring at its end."""
    xs, ys = [p["kl"] for p in points], [p[key] for p in points]
    reach = max(1, len(points) // 12)
    smooth = running_mean(xs, reach), running_mean(ys, reach)
    axes.scatter(xs, ys, color=colour, s=4, alpha=0.15, linewidths=0)
    axes.plot(*smooth, color=colour, linewidth=1.3, label=label)
    axes.scatter([smooth[0][-1]], [smooth[1][-1]], color=colour, s=22, zorder=3)


def _measured(epochs: Sequence[Record]) -> bool:
    return all(is_number(e.get(key)) for e in epochs for key in ("accuracy", "loss"))


def draw_epochs(models: Sequence[Record]) -> str:
    """Return held-out accuracy and loss of reward models after each epoch, by element.

    A model without a held-out pair to compare has no figures, and is left out.
    """
    shown = [m for m in models if len(m["by_epoch"]) >= 2 and _measured(m["by_epoch"])]
    if not shown:
        return ""
    names = list(dict.fromkeys(m["run"] for m in shown))
    with svg_figure(7.2, 2.2) as figure:
        for axes, key in zip(figure.subplots(1, 2), ("accuracy", "loss"), strict=True):
            for at, name in enumerate(names):
                own = [[e.get(key) for e in m["by_epoch"]] for m in shown if m["run"] == name]
                colour = LINES[at % len(LINES)]
                for values in own:
                    axes.plot(range(1, len(values) + 1), values, color=colour, alpha=0.35, lw=0.9)
                steps = min(map(len, own))
                mean = [sum(v[i] for v in own) / len(own) for i in range(steps)]
                axes.plot(range(1, steps + 1), mean, color=colour, marker="o", ms=3, label=name)
            axes.set_xlabel("epoch")
            axes.set_title(f"held-out {key}", fontsize=9)
            axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
        return inline(figure, "epochs")

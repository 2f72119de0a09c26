"""Rows of the joined report's tables as text, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from toolkit.report.load import Record
from toolkit.report.numbers import interval, is_number, percent, plain
from toolkit.report.tables import Row

COLUMNS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("oracle", "oracle", plain),
    ("exact", "exact", lambda v: percent(v, 1)),
    ("reward", "RM score", plain),
    ("kl", "KL", plain),
    ("pretraining_loss", "pretraining loss", lambda v: f"{v:.4f}" if is_number(v) else "-"),
    ("skill", "skills", lambda v: percent(v, 1)),
)


def models(report: Record) -> tuple[Row, list[Row]]:
    """Return (header, rows): each model, the best Elo first; means over seeds."""
    shown = sorted(report["models"], key=lambda m: -(m.get("elo") or {}).get("elo", 0.0))
    columns = [c for c in COLUMNS if any(m.get(c[0]) for m in shown)]
    against = f"wins against {report['anchor']}"
    header = ("model", "seeds", "Elo", against, *(title for _, title, _ in columns))
    rows = []
    for model in shown:
        cells = (show((model.get(key) or {}).get("mean")) for key, _, show in columns)
        seeds = ", ".join(map(str, model["seeds"]))
        rows.append((model["name"], seeds, elo(model.get("elo")), wins(model.get("wins")), *cells))
    return header, rows


def elo(rating: Record | None) -> str:
    """Return a rating with its interval, such as "1084 [1076, 1093]"."""
    if not rating:
        return "-"
    return f"{rating['elo']:.0f} [{rating['low']:.0f}, {rating['high']:.0f}]"


def wins(share: Record | None) -> str:
    """Return a win rate with its interval, such as "61.2 % [60, 62]"."""
    if not share:
        return "-"
    return f"{percent(share['win_rate'], 1)} {interval(share['low'], share['high'])}"


def matrix(report: Record) -> tuple[Row, list[Row]]:
    """Return (header, rows): how often the row's model beats the column's, ties one half."""
    names = [m["name"] for m in report["models"]]
    if len(names) < 2:
        return (), []
    rows = []
    for name in names:
        own = report["wins"].get(name) or {}
        rows.append((name, *(percent((own.get(r) or {}).get("win_rate")) for r in names)))
    return ("wins of", *names), rows


def by_seed(report: Record) -> tuple[Row, list[Row]]:
    """Return (header, rows): each seed's win rate against the anchor, skills and loss."""
    seeds = [str(s) for s in report["seeds"]]
    if len(seeds) < 2:
        return (), []
    header = ("model", "figure", *(f"seed {s}" for s in seeds))
    rows: list[Row] = []
    for model in report["models"]:
        parts: tuple[tuple[str, Any, Callable[[Any], str]], ...] = (
            ("wins", (model.get("wins") or {}).get("by_seed"), lambda v: percent(v, 1)),
            ("skills", (model.get("skill") or {}).get("by_seed"), lambda v: percent(v, 1)),
            ("pretraining loss", (model.get("pretraining_loss") or {}).get("by_seed"), plain),
        )
        for label, values, show in parts:
            if values:
                rows.append((model["name"], label, *(show(values.get(s)) for s in seeds)))
    return header, rows


def sweep(record: Record) -> tuple[Row, list[Row]]:
    """Return (header, rows): each value of the swept coefficient, and what came of it."""
    header: Row = (record["path"], "wins against sft", "oracle", "KL", "skills", "pretraining loss")
    rows: list[Row] = [
        (
            f"{p['value']:g}",
            percent(p.get("win_rate"), 1),
            plain(p.get("oracle")),
            plain(p.get("kl")),
            percent(p.get("skill"), 1),
            f"{p['pretraining_loss']:.4f}" if is_number(p.get("pretraining_loss")) else "-",
        )
        for p in record["points"]
    ]
    return header, rows


def reward_models(report: Record) -> tuple[Row, list[Row]]:
    """Return (header, rows): held-out accuracy of each reward model, after each epoch."""
    rows: list[Row] = []
    for model in report["reward"]:
        epochs = ", ".join(percent(e.get("accuracy"), 1) for e in model["by_epoch"])
        valid = percent((model.get("valid") or {}).get("accuracy"), 1)
        rows.append((model["run"], str(model["seed"]), model["element"], valid, epochs))
    return ("reward model of", "seed", "element", "held-out accuracy", "after each epoch"), rows

"""What the report says of those who rank: agreement, accuracy by fold, ratings and flags."""

from __future__ import annotations

from typing import Any

from toolkit.report.load import Record
from toolkit.report.markup import section, table
from toolkit.report.numbers import is_number, percent, plain

Row = tuple[str, ...]

GROUPS = {
    "all": "all labelers",
    "training": "labelers who train",
    "held_out": "held-out labelers",
    "between": "one who trains, one held out",
}
SIDES = {
    "training_labelers": "the labelers it was trained on",
    "held_out_labelers": "labelers it never saw",
    "difference": "difference",
}

NOTE = (
    "Agreement: share of pairs of answers that two labelers order alike, a tie of one counting "
    "half, with a 95 % interval over prompts. Folds: reward models that each leave a group of "
    "labelers out, on held-out prompts, with the standard error over folds. The difference is "
    "taken group by group: without its rankings, less with them."
)


def agreement_rows(labels: Record) -> list[Row]:
    """Return (whose, agreement with its error, pairs) of each group of labelers."""
    groups: dict[str, Record] = labels.get("agreement") or {}
    rows: list[Row] = []
    for group, found in groups.items():
        shown = _with_error(found, "agreement"), plain(found.get("pairs"))
        rows.append((GROUPS.get(group, group), *shown))
    return rows


def fold_rows(folds: Record) -> list[Row]:
    """Return (on whose rankings, accuracy with its error, pairs) over the folds."""
    rows: list[Row] = []
    for side, title in SIDES.items():
        if isinstance(folds.get(side), dict):
            found = [fold.get(side, {}).get("pairs", 0) for fold in folds.get("folds") or []]
            pairs = plain(sum(found)) if side != "difference" else ""
            rows.append((title, _with_error(folds[side], "mean"), pairs))
    return rows


def rating_rows(labels: Record) -> tuple[Row, list[Row]]:
    """Return (header, rows) of mean quality and the share of each flag, by source of the answer."""
    sources = labels.get("metadata") or {}
    flags = sorted({flag for said in sources.values() for flag in said.get("flags") or {}})
    rows: list[Row] = [
        (
            source,
            plain(said.get("rated")),
            plain(said.get("quality")),
            *(percent((said.get("flags") or {}).get(flag), 1) for flag in flags),
        )
        for source, said in sources.items()
    ]
    return ("answers of", "rated", "quality, 1 to 7", *flags), rows


def render_labelers(labels: Record, folds: Record) -> str:
    """Return the report's section; "" where nothing is known of labelers."""
    agree = table(("order alike", "agreement", "pairs"), agreement_rows(labels))
    accuracy = table(("reward model orders rightly for", "accuracy", "pairs"), fold_rows(folds))
    ratings = table(*rating_rows(labels)) if labels.get("metadata") else ""
    return section("Labelers", agree, accuracy, ratings, note=NOTE)


def _with_error(value: Record, name: str) -> str:
    mean, error = value.get(name), value.get("error")
    return (
        percent(mean, 1) if not is_number(error) else f"{_points(mean)} \u00b1 {_points(error)} %"
    )


def _points(share: Any) -> str:
    return f"{100 * share:.1f}"

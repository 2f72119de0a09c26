"""Rows of the report's tables as text, shared by the terminal and the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from toolkit.report.load import Record
from toolkit.report.names import decisive, in_order, label_of, learner_of
from toolkit.report.numbers import interval, is_number, percent, plain, signed

Row = tuple[str, ...]

QUALITIES: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("oracle", "oracle score", plain),
    ("exact", "exact answers", lambda v: percent(v, 1)),
    ("reward", "reward model's score", plain),
    ("kl", "KL, nats per answer", plain),
    ("length", "length, tokens", plain),
    ("eos_rate", "ended by end-of-text", lambda v: percent(v, 1)),
    ("perplexity", "pretraining perplexity", plain),
)


def comparison(evaluation: Record) -> tuple[Row, list[Row]]:
    """Return (header, rows) of all models; last, the change from SFT to the deciding weights."""
    models = evaluation.get("models") or {}
    names, learner = in_order(models), learner_of(evaluation)
    if not names:
        return (), []
    chosen = decisive(evaluation)
    titles = (f"{label_of(n, learner)}{' *' if n == chosen else ''}" for n in names)
    header = ("", *titles, "change")
    rows = []
    for key, words, show in QUALITIES:
        values = [models[n].get(key) for n in names]
        if any(is_number(v) for v in values):
            before, after = (models.get(m, {}).get(key) for m in ("sft", chosen))
            rows.append((words, *map(show, values), _change(before, after, show)))
    return header, rows


def _change(before: Any, after: Any, show: Callable[[Any], str]) -> str:
    if not (is_number(before) and is_number(after)):
        return ""
    change = float(after) - float(before)
    return signed(change) if show is plain else f"{100 * change:+.1f} points"


def win_rates(evaluation: Record) -> list[Row]:
    """Return (judge, win rate, 95 % interval, wins, ties, losses) for each judge."""
    rows = []
    for judge, result in (evaluation.get("judges") or {}).items():
        counts = (plain(result.get(name)) for name in ("wins", "ties", "losses"))
        bounds = interval(result.get("low"), result.get("high"))
        rows.append((judge, percent(result.get("win_rate"), 1), bounds, *counts))
    return rows


def accuracies(accuracy: Record) -> list[Row]:
    """Return (which comparisons, accuracy, number of pairs) of the reward model."""
    rows = []
    shown = {"valid": "held-out", "train": "training", "held_out_labelers": "held-out labelers"}
    for key, label in shown.items():
        if key in accuracy:
            rows.append(_accuracy_row(label, accuracy[key]))
    for key, label in (("by_k", "held-out, K = {}"), ("by_length", "held-out, length {}")):
        for name, value in (accuracy.get(key) or {}).items():
            rows.append(_accuracy_row(label.format(name), value))
    for key, label in (("by_round", "held-out, round {}"), ("by_source", "held-out, of {}")):
        found = accuracy.get(key) or {}
        rows += [_accuracy_row(label.format(n), v) for n, v in found.items() if len(found) > 1]
    for name, value in (accuracy.get("by_labeler") or {}).items():
        who = name if name.startswith("labeler") else f"labeler {name}"
        rows.append(_accuracy_row(f"held-out, {who}", value))
    return rows


def _accuracy_row(label: str, value: Any) -> Row:
    record = value if isinstance(value, dict) else {"accuracy": value}
    return (label, percent(record.get("accuracy"), 1), plain(record.get("pairs")))


def data_counts(counts: Record) -> tuple[Row, list[Row]]:
    """Return (header, rows) of what was read, kept, used and dropped, and by which rule."""
    columns = ("read", "kept", "train", "valid", "tokens")
    shown = [name for name in columns if any(name in file for file in counts.values())]
    rows = []
    for kind, file in counts.items():
        rules = [f"{n} {rule}" for rule, n in file.items() if rule not in columns and n]
        numbers = (plain(file[name]) if name in file else "" for name in shown)
        rows.append((kind, *numbers, ", ".join(rules) or "nothing"))
    return ("", *shown, "dropped"), rows


def by_kind(evaluation: Record) -> tuple[Row, list[Row]]:
    """Return (header, rows) of oracle scores by kind of instruction; ((), []) without."""
    kinds = evaluation.get("by_kind") or {}
    found = dict.fromkeys(n for kind in kinds.values() for n in kind if n != "prompts")
    names, learner = in_order(found), learner_of(evaluation)
    if not names:
        return (), []
    header = ("kind of instruction", "prompts", *(label_of(n, learner) for n in names))
    rows = [
        (kind, plain(value.get("prompts")), *(_kind_score(value.get(n)) for n in names))
        for kind, value in kinds.items()
    ]
    return header, rows


def _kind_score(value: Any) -> str:
    return plain(value.get("oracle") if isinstance(value, dict) else value)


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Return a nested record as (dotted name, text) rows."""
    if isinstance(value, dict):
        return [
            row for k, v in value.items() for row in flat(v, f"{prefix}.{k}" if prefix else str(k))
        ]
    if isinstance(value, list):
        return [(prefix, ", ".join(map(str, value)))]
    return [(prefix, plain(value) if isinstance(value, float) else str(value))]


def deviations(rows: list[Record]) -> tuple[Row, list[Row]]:
    """Return header and rows of what a spec does otherwise than a preset."""
    names = ("path", "preset", "own", "why", "origin")
    header = ("key", "paper", "here", "why", "from")
    return header, [tuple(str(row.get(name, "")) for name in names) for row in rows]

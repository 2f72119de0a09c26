"""The settings that stand side by side: every competitor names each of them. No imports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OPTIMIZER = ("betas", "epsilon", "weight decay", "gradient clip")
RUN = ("precision", "threads", "order of examples", "padding in the softmax")

SETTINGS: dict[str, tuple[str, ...]] = {
    "sft": (
        "examples", "batch", "optimizer steps", "learning rate", "schedule", "warmup steps",
        *OPTIMIZER, "loss on", "dropout", "head", *RUN,
    ),
    "reward": (
        "prompts", "pairs", "pairs a step", "optimizer steps", "learning rate", "schedule",
        "warmup steps", *OPTIMIZER, "ties", "new head", "scores centred", *RUN,
    ),
    "ppo": (
        "episodes", "batch", "optimizer steps", "learning rate", "value learning rate", "schedule",
        *OPTIMIZER, "KL coefficient", "gamma", "lambda", "ratio clip", "value clip",
        "value loss weight", "whitened", "temperature", "new tokens at most",
        "without end-of-text", "value model from", "policy and value", "rollout", *RUN,
    ),
}  # fmt: skip
"""Stage -> names of settings, in the order of the table."""


def check_names(stage: str, settings: Mapping[str, Any]) -> None:
    """Refuse settings with a name missing or unknown.

    Raises:
        ValueError: the names differ from SETTINGS[stage].
    """
    wanted, have = set(SETTINGS[stage]), set(settings)
    if wanted != have:
        raise ValueError(
            f"{stage}: the settings lack {sorted(wanted - have)} and add {sorted(have - wanted)}; "
            "name exactly those of rows.SETTINGS"
        )


def side_by_side(stage: str, systems: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return rows [mark, setting, value of each system]; the mark * says that values differ."""
    rows = [["", stage, *systems]]
    for settings in systems.values():
        check_names(stage, settings)
    for name in SETTINGS[stage]:
        values = [show(settings[name]) for settings in systems.values()]
        rows.append(["*" if len(set(values)) > 1 else "", name, *values])
    return rows


def show(value: Any) -> str:
    """Write a value: numbers short and alike, lists joined, nothing as `off`."""
    if value is None or value is False:
        return "off"
    if isinstance(value, list | tuple):
        return ", ".join(map(show, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def layout(rows: list[list[str]]) -> str:
    """Set rows in columns; the first is the heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines)

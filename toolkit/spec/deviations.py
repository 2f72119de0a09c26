"""What a spec does otherwise than a preset, from the two trees alone; nothing is run.

The recipe is what the paper prescribes: stages, coefficients, schedules. What a run is done with
(machine, models, data, where results go, how they are measured) is its environment and is listed
apart. So is the further tuning on public language tasks that the paper's reward model had before
(C.2): no key of a spec does that, it is in the model folder or it is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from toolkit.spec.layers import preset_tree, source_of
from toolkit.spec.load import Loaded
from toolkit.spec.resolved import one_line
from toolkit.spec.schema import Spec
from toolkit.spec.vocabulary import KeyInfo, find_key
from toolkit.spec.yaml_tree import Mark, Path_

PAPER = "instructgpt/"
USUAL = "instructgpt/1.3b"
"""What a spec is held against that extends no preset."""

ENVIRONMENT = (
    "seed", "out", "share", "hardware", "models", "text.tokenizer", "text.template", "text.pad",
    "data", "pretrain", "collect.batch", "label.by", "label.fn", "label.file", "label.model",
    "label.labelers", "label.overlap", "label.quorum", "reward.gate", "folds", "evaluate",
    "checkpoint", "log", "export",
)  # fmt: skip
"""Paths that say what a run is done with; every other one belongs to the recipe."""

UNSAID = ("schema", "name", "extends")
"""Paths that tell runs apart and change none."""

NOTE = (
    "The paper's reward model was tuned on public language tasks before (C.2); no key says whether "
    "that of this spec was"
)


@dataclass(frozen=True)
class Deviation:
    """One value that differs.

    Args:
        path: dotted path; of a section when one side has it and the other has not.
        preset: the preset's value, as YAML writes it; "on" for a section.
        own: this spec's.
        origin: where this spec's came from, such as "my.yaml:12".
        why: the comment at that line; "" without one.
    """

    path: str
    preset: str
    own: str
    origin: str
    why: str


@dataclass(frozen=True)
class Comparison:
    """A spec against a preset.

    Args:
        preset: its name.
        recipe: what the spec does otherwise.
        environment: what it is done with, where that differs.
        note: what no key can tell; "" beside a preset that is not the paper's.
    """

    preset: str
    recipe: tuple[Deviation, ...]
    environment: tuple[Deviation, ...]
    note: str

    def as_record(self) -> dict[str, Any]:
        """Return the comparison as one JSON-able document."""
        return asdict(self)


def nearest_preset(presets: Sequence[str]) -> str:
    """Return the paper's preset among those extended, else the nearest one, else USUAL."""
    ours = [name for name in presets if name.startswith(PAPER)]
    return (ours or list(presets) or [USUAL])[0]


def paper_preset(presets: Sequence[str]) -> str:
    """Return the paper's preset among those extended, else USUAL."""
    return next((name for name in presets if name.startswith(PAPER)), USUAL)


def compare(loaded: Loaded, preset: str | None = None) -> Comparison:
    """Compare a spec with a preset.

    Args:
        loaded: the spec.
        preset: its name; None: `nearest_preset` of those the spec extends.

    Raises:
        SpecError: there is no such preset.
    """
    name = preset or nearest_preset(loaded.presets)
    rows = list(_differences(preset_tree(name), loaded.tree, ()))
    recipe = [row for row in rows if not _below(row[0], ENVIRONMENT)]
    # a default such as out, which names the run, differs without anybody having said so
    around = [row for row in rows if _below(row[0], ENVIRONMENT) and _was_said(loaded, row[0])]
    return Comparison(
        preset=name,
        recipe=tuple(_deviation(loaded, *row) for row in recipe),
        environment=tuple(_deviation(loaded, *row) for row in around),
        note=NOTE if name.startswith(PAPER) else "",
    )


def _differences(
    theirs: dict[str, Any], ours: dict[str, Any], path: Path_
) -> Iterator[tuple[Path_, Any, Any]]:
    for name in dict.fromkeys([*ours, *theirs]):
        here, one, two = (*path, name), theirs.get(name), ours.get(name)
        info = find_key(Spec, here)
        one, two = (_absent(info, value) for value in (one, two))
        if one == two or _below(here, UNSAID):
            continue
        if info is not None and info.section and isinstance(one, dict) and isinstance(two, dict):
            yield from _differences(one, two, here)
        else:
            yield here, one, two


def _absent(info: KeyInfo | None, value: Any) -> Any:
    """Return null for the word that means the same."""
    return None if info is not None and info.kind == "or_sft" and value == "sft" else value


def _below(path: Path_, names: Sequence[str]) -> bool:
    dotted = ".".join(path)
    return any(dotted == name or dotted.startswith(f"{name}.") for name in names)


def _was_said(loaded: Loaded, path: Path_) -> bool:
    return any(mark[: len(path)] == path for mark in loaded.marks)


def _deviation(loaded: Loaded, path: Path_, theirs: Any, ours: Any) -> Deviation:
    dotted = ".".join(path)
    mark = loaded.marks.get(path)
    return Deviation(
        path=dotted,
        preset=_value(path, theirs),
        own=_value(path, ours),
        origin=loaded.origin(dotted),
        why=comment_at(mark) if mark is not None else "",
    )


def _value(path: Path_, value: Any) -> str:
    info = find_key(Spec, path)
    return (
        "on" if info is not None and info.section and isinstance(value, dict) else one_line(value)
    )


def comment_at(mark: Mark) -> str:
    """Return the comment on a key's line, else the comment lines right above it; "" without."""
    file = source_of(mark)
    if file is None or not file.is_file() or mark.line < 1:
        return ""
    lines = file.read_text(encoding="utf-8").splitlines()[: mark.line]
    if not lines:
        return ""
    if text := _trailing(lines[-1]):
        return text
    above: list[str] = []
    for line in reversed(lines[:-1]):
        if not line.lstrip().startswith("#"):
            break
        above.insert(0, line.strip().lstrip("#").strip())
    return " ".join(above)


def _trailing(line: str) -> str:
    """Return what follows the first # outside quotes that a space precedes."""
    bare = re.sub(r"\"(?:\\.|[^\"\\])*\"|'[^']*'", lambda found: "_" * len(found[0]), line)
    found = re.search(r"(?:^|\s)#\s*", bare)
    return line[found.end() :].strip() if found else ""

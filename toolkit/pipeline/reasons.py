"""Why a stage runs, in words: the stored parts of its last result against the new ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

SHOWN = 3
"""Reasons named in full; the rest are counted."""


def value_text(value: Any) -> str:
    """Return a spec value as a user would write it; long ones are cut."""
    text = value if isinstance(value, str) and value else json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def own_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return one phrase per difference of a stage's own version, settings, files and hardware."""
    found: list[str] = []
    if old.get("version") != new["version"]:
        found.append(f"stage version {old.get('version')} -> {new['version']}")
    found += _spec_changes(old.get("spec", {}), new["spec"])
    found += _file_changes(old.get("files", {}), new["files"])
    if old.get("seed") != new["seed"]:
        found.append(f"seed {old.get('seed')} -> {new['seed']}")
    return found + _flat_changes(old.get("hardware", {}), new["hardware"], "hardware.")


def changes(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    running: Mapping[str, str],
    names: Mapping[str, str],
) -> list[str]:
    """Return one phrase per difference, the stage's own first, then those of what it reads.

    Args:
        old: parts in done.json.
        new: parts of the result that is wanted.
        running: name -> action of the stages before it.
        names: stage kind -> name of the stage that is read.
    """
    inputs = _input_changes(old.get("inputs", {}), new["inputs"], running, names)
    return own_changes(old, new) + inputs


def sentence(phrases: list[str]) -> str:
    """Join phrases; beyond SHOWN they are counted."""
    rest = len(phrases) - SHOWN
    return "; ".join(phrases[:SHOWN]) + (f"; and {rest} more" if rest > 0 else "")


def _spec_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    found = []
    for path in sorted(old.keys() | new.keys()):
        if path in old and path in new:
            if old[path] != new[path]:
                found.append(f"{path} {value_text(old[path])} -> {value_text(new[path])}")
        elif path in new:
            found.append(_one_sided(path, old, new, "{path} {other} -> {here}"))
        else:
            found.append(_one_sided(path, new, old, "{path} {here} -> {other}"))
    return list(dict.fromkeys(found))


def _one_sided(path: str, other: Mapping[str, Any], here: Mapping[str, Any], phrase: str) -> str:
    """Say how a leaf that only `here` has differs: often a section that is null on one side."""
    parts = path.split(".")
    above = (".".join(parts[:n]) for n in range(1, len(parts)))
    section = next((p for p in above if p in other), None)
    if section is not None:
        return phrase.format(path=section, other=value_text(other[section]), here="set")
    below = any(p.startswith(path + ".") for p in other)
    return phrase.format(path=path, other="set" if below else "absent", here=value_text(here[path]))


def _file_changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    found = []
    for path in sorted(old.keys() | new.keys()):
        before, after = old.get(path), new.get(path)
        if before != after:
            found.append(f"{path} changed ({_six(before)} -> {_six(after)})")
    return found


def _six(digest: str | None) -> str:
    return digest[:6] if digest else "none"


def _flat_changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str) -> list[str]:
    return [
        f"{prefix}{name} {value_text(old.get(name))} -> {value_text(new.get(name))}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _input_changes(
    old: Mapping[str, str],
    new: Mapping[str, str],
    running: Mapping[str, str],
    names: Mapping[str, str],
) -> list[str]:
    changed = [kind for kind in new if old.get(kind) != new[kind]]
    read = dict.fromkeys(names[kind] for kind in changed)
    run = [name for name in read if running.get(name) in ("runs", "continues")]
    if run:
        return [f"because {_and(run)} {'runs' if len(run) == 1 else 'run'}"]
    found = [
        f"{names[kind]} is another result ({_six(old.get(kind))} -> {_six(new[kind])})"
        for kind in changed
    ]
    return found + [f"{kind} is no longer read" for kind in old if kind not in new]


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]

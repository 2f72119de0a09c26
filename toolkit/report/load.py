"""Read a run folder, finished or not, into one `Run`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolkit.pipeline.graph import Node, build_graph
from toolkit.pipeline.identity import spec_slice
from toolkit.pipeline.run_folder import read_spec
from toolkit.pipeline.store import PROGRESS, Store
from toolkit.spec.errors import DataError, Problem
from toolkit.spec.schema import Spec

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage as it stands on disk.

    Args:
        name: such as "ppo.1".
        kind: such as "ppo".
        state: "done"; "unfinished": started; "outdated": done, but for an earlier spec or earlier
            inputs; "missing": not started.
        folder: where its files are; None when it has not started.
        done: content of done.json.
        metrics: lines of metrics.jsonl in order.
        progress: of an unfinished stage: step, total, seconds, failed.
    """

    name: str
    kind: str
    state: str = "missing"
    folder: Path | None = None
    done: Record = field(default_factory=dict)
    metrics: tuple[Record, ...] = ()
    progress: Record = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything the report reads.

    `problems`: what this version cannot read in the run's spec; `deviations`: what the spec does
    otherwise than the paper, {} in a run of a version that did not say.
    """

    folder: Path
    spec: Spec
    tree: Record
    text: str
    problems: tuple[Problem, ...]
    lock: Record
    stages: tuple[Stage, ...]
    deviations: Record = field(default_factory=dict)

    def last(self, kind: str) -> Stage:
        """Return the newest round of `kind` whose files count, else a missing stage."""
        found = [s for s in self.stages if s.kind == kind and s.state in ("done", "unfinished")]
        return found[-1] if found else Stage(name=kind, kind=kind)

    def read(self, kind: str, file: str) -> Record:
        """Return a JSON object that the last finished stage of `kind` wrote, or {}."""
        stage = self.last(kind)
        return read_json(stage.folder / file) if stage.folder and stage.state == "done" else {}

    def samples(self) -> list[Record]:
        """Return the evaluation's sample answers."""
        stage = self.last("evaluate")
        if stage.folder is None or stage.state != "done":
            return []
        return read_lines(stage.folder / "samples.jsonl")


def load_run(folder: Path) -> Run:
    """Read the run in `folder`.

    Raises:
        ToolkitError: the folder does not exist, or holds no run.
        DataError: a file of the run is not valid JSON; names file and line.
    """
    examined = read_spec(folder)
    spec = examined.loaded.spec
    return Run(
        folder=folder,
        spec=spec,
        tree=examined.loaded.tree,
        text=(folder / "spec.resolved.yaml").read_text(encoding="utf-8"),
        problems=examined.problems,
        lock=read_json(folder / "lock.json"),
        stages=tuple(_load_stages(folder, spec)),
        deviations=read_json(folder / "deviations.json"),
    )


def _load_stages(folder: Path, spec: Spec) -> Iterable[Stage]:
    store = Store(folder)
    wanted_keys = read_json(folder / "lock.json").get("keys") or {}
    keys: dict[str, str] = {}
    for node in build_graph(spec):
        done = read_json(store.folder(node.name) / "done.json")
        inputs = {kind: keys.get(name) for kind, name in node.inputs.items()}
        key = str(done.get("key"))
        fits = key == wanted_keys.get(node.name, key)
        if (
            done
            and fits
            and not _outdated(done, spec_slice(spec, node.paths, node.ignored), inputs, spec.seed)
        ):
            keys[node.name] = key
            yield _finished(node, "done", store.folder(node.name), done)
        elif started := _newest(store.partials, node.name):
            yield _unfinished(node, started)
        elif done:
            yield _finished(node, "outdated", store.folder(node.name), done)
        else:
            yield Stage(name=node.name, kind=node.kind)


def _outdated(done: Record, wanted: Record, inputs: Mapping[str, str | None], seed: int) -> bool:
    """Return whether a result was made from other settings, seed or inputs than the run's present.

    Settings that one side does not know (of another version) do not count.
    """
    parts = done.get("parts") or {}
    made = parts.get("spec") or {}
    if any(made[path] != value for path, value in wanted.items() if path in made):
        return True
    if parts.get("seed", seed) != seed:
        return True
    return any(inputs.get(kind) != key for kind, key in (parts.get("inputs") or {}).items())


def _finished(node: Node, state: str, folder: Path, done: Record) -> Stage:
    metrics = tuple(read_lines(folder / "metrics.jsonl"))
    return Stage(
        name=node.name, kind=node.kind, state=state, folder=folder, done=done, metrics=metrics
    )


def _newest(partials: Path, name: str) -> Path | None:
    found = [path for path in partials.glob(f"{name}-*") if path.is_dir()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _unfinished(node: Node, folder: Path) -> Stage:
    return Stage(
        name=node.name,
        kind=node.kind,
        state="unfinished",
        folder=folder,
        metrics=tuple(read_lines(folder / "metrics.jsonl", growing=True)),
        progress=read_json(folder / PROGRESS),
    )


def read_json(path: Path) -> Record:
    """Return the JSON object in `path`; {} when there is no such file."""
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise _broken(path, error.lineno, str(error)) from error
    if not isinstance(value, dict):
        raise _broken(path, 1, f"expected an object, found {type(value).__name__}")
    return value


def read_lines(path: Path, *, growing: bool = False) -> list[Record]:
    """Return the JSON objects in `path`, one per line; [] when there is no such file.

    Args:
        path: a JSON Lines file.
        growing: somebody may be writing it: a last line without a newline is not read.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return list(_parse(path, lines[:-1] if growing else lines))


def _parse(path: Path, lines: Iterable[str]) -> Iterable[Record]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            raise _broken(path, number, str(error)) from error


def _broken(path: Path, line: int, what: str) -> DataError:
    message = f"cannot be read ({what}); run the spec again to write it anew"
    return DataError([Problem(str(path), line, 0, "", message)])

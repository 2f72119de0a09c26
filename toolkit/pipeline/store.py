"""Finished, unfinished and replaced results of a run folder.

    stages/<name>/                     finished: done.json exists
    stages/.partial/<name>-<key12>/    being written; a killed run finds it again by its key
                                       (progress.json in it says how far it came, for `plan`;
                                       traceback.txt, where it failed, by what)
    stages/.old/<name>-<key12>/        replaced, reused when its key is wanted again

A stage may be adopted from another run: its files are hard links, so they take no room twice. This
is safe because a finished result is never written to, only replaced as a whole.

A result is published in three steps, each safe to be killed after:
    1. done.json is written inside the partial folder: from here on the result counts as finished
    2. stages/<name> moves to stages/.old/<name>-<its key>
    3. the partial folder moves to stages/<name>
`recover` completes 2 and 3.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from toolkit.pipeline.damage import check_whole, damage, file_sizes
from toolkit.pipeline.failures import TRACEBACK
from toolkit.pipeline.files import (
    fsync_folder,
    fsync_tree,
    read_json,
    remove_tree,
    write_json_atomic,
)
from toolkit.spec.errors import ToolkitError

PROGRESS = "progress.json"
CHECKPOINT = "checkpoint"


@dataclass(frozen=True, kw_only=True)
class Done:
    """The contents of done.json.

    Args:
        key: identity of the result, 64 hex digits.
        parts: what the key was made of, for reasons in words.
        started, finished: UTC, ISO 8601.
        seconds: working time, earlier interrupted attempts included.
        peak_memory: bytes; None where the platform does not tell.
        peak_memory_of: "stage" or "process": what peak_memory covers.
        device_memory: peak bytes on the GPU; None where the stage ran on the CPU.
        summary, warnings, gate: as the stage said (StageResult).
        files: path in the folder -> bytes, as the stage left them; {} of an earlier version.
    """

    key: str
    parts: dict[str, Any]
    started: str = ""
    finished: str = ""
    seconds: float = 0.0
    peak_memory: int | None = None
    peak_memory_of: str = "process"
    device_memory: int | None = None
    summary: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    gate: str | None = None
    files: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Partial:
    """How far an unfinished stage came: steps, working seconds, and why it failed, if it did."""

    step: int = 0
    total: int = 0
    seconds: float = 0.0
    started: str = ""
    failed: str | None = None


def short(key: str) -> str:
    """Return the part of a key that stands in folder names."""
    return key[:12]


def read_done(folder: Path) -> Done | None:
    """Return done.json of a stage folder, or None when the stage is not finished."""
    value = read_json(folder / "done.json")
    if not isinstance(value, dict) or not isinstance(value.get("parts"), dict):
        return None
    if not isinstance(value.get("key"), str):
        return None
    return Done(**{name: value[name] for name in Done.__dataclass_fields__ if name in value})


def find_shared(folder: Path, own: Path, name: str, key: str) -> Path | None:
    """Return the folder of a finished stage of this name and key in a run below `folder`, or None.

    One whose files are no longer as the stage left them is passed over.

    Args:
        folder: folder whose subfolders are runs.
        own: the run that asks; it is left out.
        name: of the stage.
        key: of the wanted result.
    """
    for run in sorted(path for path in folder.glob("*/") if path.resolve() != own.resolve()):
        for place in (Store(run).folder(name), Store(run).old_folder(name, key)):
            done = read_done(place)
            if done is not None and done.key == key and damage(place, done.files) is None:
                return place
    return None


def _link(source: str | Path, target: str | Path) -> str:
    """Link a file, or copy it where the file system has no links between the two."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        shutil.copy2(source, target)
    return str(target)


def _all_but_done(folder: str, names: list[str]) -> list[str]:
    """Return what copytree leaves out: done.json, and no file of a stage is named so deeper."""
    return [name for name in names if name == "done.json"]


def _gone(name: str, source: Path) -> ToolkitError:
    return ToolkitError(
        f"{name}: {source} was replaced by the run it belongs to while it was linked; run again"
    )


class Store:
    """The stages/ folder of one run."""

    def __init__(self, run: Path) -> None:
        """Describe the store of the run folder `run`; touches nothing on disk."""
        self.stages = run / "stages"
        self.partials = self.stages / ".partial"
        self.olds = self.stages / ".old"

    def folder(self, name: str) -> Path:
        """Return the folder of a finished stage."""
        return self.stages / name

    def partial_folder(self, name: str, key: str) -> Path:
        """Return the folder that stage `name` writes while it runs."""
        return self.partials / f"{name}-{short(key)}"

    def old_folder(self, name: str, key: str) -> Path:
        """Return where a replaced result of stage `name` is kept."""
        return self.olds / f"{name}-{short(key)}"

    def done(self, name: str) -> Done | None:
        """Return the finished result of stage `name`, or None."""
        return read_done(self.folder(name))

    def old(self, name: str, key: str) -> Done | None:
        """Return the replaced result of stage `name` with this key, or None."""
        return self._matching(self.old_folder(name, key), key)

    def unpublished(self, name: str, key: str) -> Done | None:
        """Return a result that finished but was not yet moved into place, or None."""
        return self._matching(self.partial_folder(name, key), key)

    def partial(self, name: str, key: str) -> Partial | None:
        """Return how far an unfinished stage came, or None when it never began."""
        folder = self.partial_folder(name, key)
        if not folder.is_dir():
            return None
        value = read_json(folder / PROGRESS)
        if not isinstance(value, dict):
            return Partial()
        return Partial(**{k: value[k] for k in Partial.__dataclass_fields__ if k in value})

    def can_continue(self, name: str, key: str) -> bool:
        """Tell whether an unfinished stage left a checkpoint."""
        return any((self.partial_folder(name, key) / CHECKPOINT).glob("*.pt"))

    def begin(self, name: str, key: str, *, fresh: bool = False) -> Path:
        """Return the work folder: the interrupted one if it has a checkpoint, else an empty one."""
        folder = self.partial_folder(name, key)
        if fresh or not self.can_continue(name, key):
            remove_tree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TRACEBACK).unlink(missing_ok=True)
        return folder

    def note(self, name: str, key: str, partial: Partial) -> None:
        """Record how far a running stage is."""
        write_json_atomic(self.partial_folder(name, key) / PROGRESS, asdict(partial))

    def publish(self, name: str, done: Done) -> Path:
        """Turn the work folder of stage `name` into its finished result, and return the folder."""
        folder = self.partial_folder(name, done.key)
        (folder / PROGRESS).unlink(missing_ok=True)
        fsync_tree(folder)
        whole = replace(done, files=file_sizes(folder, without=(CHECKPOINT, "done.json")))
        write_json_atomic(folder / "done.json", asdict(whole))
        return self._move_into_place(name, folder, done.key)

    def check_inputs(self, reader: str, names: Iterable[str]) -> None:
        """Refuse to let the stage `reader` read finished stages that were damaged since.

        Raises:
            ToolkitError: a file of one is gone or of another size.
        """
        for name in names:
            if (done := self.done(name)) is not None:
                check_whole(reader, name, self.folder(name), done.files)

    def reuse_old(self, name: str, key: str) -> Path:
        """Bring a replaced result back; the present one takes its place in .old."""
        return self._move_into_place(name, self.old_folder(name, key), key)

    def adopt(self, name: str, key: str, source: Path) -> Path:
        """Link a finished stage of another run into place; copies where links are impossible.

        Raises:
            ToolkitError: the other run replaced it in the meantime.
        """
        folder = self.partial_folder(name, key)
        remove_tree(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        # done.json last: a kill before it leaves an unfinished folder, not half a result
        try:
            shutil.copytree(source, folder, copy_function=_link, ignore=_all_but_done)
        except (FileNotFoundError, shutil.Error) as error:
            raise _gone(name, source) from error
        fsync_tree(folder)
        if self._matching(source, key) is None:
            raise _gone(name, source)
        _link(source / "done.json", folder / "done.json")
        return self._move_into_place(name, folder, key)

    def recover(self) -> list[str]:
        """Finish moves that a kill cut off and clear rubbish; return the names put in place."""
        for parent in (self.partials, self.olds):
            for rubbish in parent.glob(".trash-*"):
                shutil.rmtree(rubbish)
        placed = []
        for folder in sorted(p for p in self.partials.glob("*") if p.is_dir()):
            if (done := read_done(folder)) is not None:
                name = folder.name.rpartition("-")[0]
                self._move_into_place(name, folder, done.key)
                placed.append(name)
        return placed

    def _matching(self, folder: Path, key: str) -> Done | None:
        found = read_done(folder)
        return found if found is not None and found.key == key else None

    def _move_into_place(self, name: str, source: Path, key: str) -> Path:
        target = self.folder(name)
        remove_tree(source / CHECKPOINT)
        self._retire(name, key)
        source.rename(target)
        fsync_folder(self.stages)
        fsync_folder(source.parent)
        return target

    def _retire(self, name: str, key: str) -> None:
        target = self.folder(name)
        if not target.exists():
            return
        present = self.done(name)
        if present is None or present.key == key:
            remove_tree(target)
            return
        self.olds.mkdir(parents=True, exist_ok=True)
        kept = self.old_folder(name, present.key)
        remove_tree(kept)
        target.rename(kept)
        fsync_folder(self.olds)

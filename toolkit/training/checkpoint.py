"""Recovery inside a stage: whole-or-not-at-all files, the newest few kept."""

from __future__ import annotations

import os
import pickle
import re
import time
from pathlib import Path
from typing import Any

import torch

from toolkit.spec.errors import StageFailed

_NAME = re.compile(r"step-(\d{9})\.pt")


def save_whole(value: Any, path: Path) -> None:
    """Save with torch so that `path` appears whole or not at all."""
    beside = path.with_suffix(".tmp")
    try:
        with beside.open("wb") as file:
            torch.save(value, file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        beside.unlink(missing_ok=True)  # on a full disk a part of it would keep the disk full
        raise
    beside.replace(path)
    _sync(path.parent)


def sync_tree(folder: Path) -> None:
    """Flush all below `folder`, it and its two parents to disk, before a checkpoint relies on it.

    The parents, since their entries for new folders must survive a power cut as well.
    """
    for path in (*folder.rglob("*"), folder, folder.parent, folder.parent.parent):
        _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Checkpoints:
    """The checkpoints of one running stage.

    A state is loaded into the CPU's memory: the stage that restores it copies each tensor to where
    its own lie, so the GPU never holds two of them, and a checkpoint outlives the GPU it came from.

    Args:
        folder: where they lie.
        every: "30s", "10m", "1h" or "50 steps".
        keep: how many to keep.
    """

    def __init__(self, folder: Path, every: str, keep: int) -> None:
        """Parse `every` once."""
        self.folder, self.keep = folder, keep
        self.steps, self.seconds = parse_every(every)
        self._last = time.monotonic()

    def due(self, done: int) -> bool:
        """Whether to save after `done` steps."""
        if self.steps is not None:
            return done % self.steps == 0
        return time.monotonic() - self._last >= (self.seconds or 0.0)

    def save(self, done: int, state: dict[str, Any]) -> None:
        """Save the state after `done` steps, then drop the oldest."""
        self.folder.mkdir(parents=True, exist_ok=True)
        save_whole({"done": done, "state": state}, self.folder / f"step-{done:09d}.pt")
        for old in self._files()[: -self.keep]:
            old.unlink()
        self._last = time.monotonic()

    def newest(self) -> tuple[int, dict[str, Any]] | None:
        """Load the newest state: (steps done, state).

        Raises:
            StageFailed: its file is damaged.
        """
        files = self._files()
        if not files:
            return None
        try:
            held = torch.load(files[-1], map_location="cpu", weights_only=True)
            return int(held["done"]), held["state"]
        except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, LookupError) as error:
            if "allocate memory" in str(error):  # torch's error of too little memory
                raise
            older = f"goes on from {files[-2].name}" if files[1:] else "starts the stage again"
            raise StageFailed(
                f"the checkpoint {files[-1]} cannot be read; delete it, and the same command "
                f"{older}"
            ) from error

    def _files(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(p for p in self.folder.iterdir() if _NAME.fullmatch(p.name))


def parse_every(text: str) -> tuple[int | None, float | None]:
    """Split "50 steps" -> (50, None) and "10m" -> (None, 600.0)."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(steps?|s|m|h)\s*", text)
    if match is None:
        raise ValueError(f"checkpoint.every is {text!r}; write 30s, 10m, 1h or 50 steps")
    number, unit = float(match[1]), match[2]
    if unit.startswith("step"):
        return max(1, int(number)), None
    return None, number * {"s": 1.0, "m": 60.0, "h": 3600.0}[unit]

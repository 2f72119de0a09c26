"""Files that appear whole or not at all: write beside, fsync, rename, fsync the folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from toolkit.spec.errors import Problem, SpecError


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder`, and `folder` itself, to disk."""
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            if path.is_symlink() or not path.is_file():
                continue
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        fsync_folder(Path(root))


def write_text_atomic(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader or a crash sees the old file or the new one."""
    with written_beside(path, text):
        pass


@contextmanager
def written_beside(path: Path, text: str) -> Iterator[None]:
    """Write `text` beside `path`; it takes its place after the block, if that raises nothing."""
    beside = path.with_name(f".{path.name}.new-{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        yield
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def write_json_atomic(path: Path, value: Any) -> None:
    """Write `value` as JSON to `path`, whole or not at all.

    Raises:
        ValueError: a number is not finite, which JSON cannot hold.
    """
    write_text_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any | None:
    """Return the JSON in `path`, or None when the file is absent or cut short."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None


def remove_tree(folder: Path) -> None:
    """Delete `folder`; renamed first, so that a crash leaves no half folder under its name."""
    if not folder.exists():
        return
    trash = folder.with_name(f".trash-{folder.name}-{os.getpid()}")
    folder.rename(trash)
    shutil.rmtree(trash)


def make_folder(folder: Path) -> None:
    """Make a run folder.

    Raises:
        SpecError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = (
            f"cannot make the run folder {folder}: {error.strerror}; name one that can be made"
        )
        raise SpecError([Problem("spec", 0, 0, "out", message)]) from error

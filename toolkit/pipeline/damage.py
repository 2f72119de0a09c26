"""Whether a finished stage's files are as the stage left them; by name and size, read from disk.

A finished result is never written to, so a file that is gone or has another size was damaged
afterwards: a copy that stopped, a disk that was full, a hand in the folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from toolkit.spec.errors import ToolkitError


def file_sizes(folder: Path, *, without: tuple[str, ...]) -> dict[str, int]:
    """Return path below `folder` -> bytes of every file, but for the names `without` at its top."""
    found = {}
    for path in sorted(folder.rglob("*")):
        below = path.relative_to(folder)
        if below.parts[0] not in without and path.is_file():
            found[below.as_posix()] = path.stat().st_size
    return found


def check_whole(reader: str, name: str, folder: Path, sizes: Mapping[str, int]) -> None:
    """Refuse to read a finished stage that is damaged.

    Args:
        reader: the stage that is about to read it.
        name: the finished stage.
        folder: where it lies.
        sizes: path -> bytes as the stage left them; empty where an earlier version did not say.

    Raises:
        ToolkitError: a file is gone or of another size; it names the file and the fix.
    """
    for below, size in sizes.items():
        path = folder / below
        if path.is_file() and path.stat().st_size == size:
            continue
        found = f"has {path.stat().st_size} bytes" if path.is_file() else "is gone"
        raise ToolkitError(
            f"{reader} reads {path}, which {found} where {name} left {size} bytes; delete {folder} "
            f"and run the same command again: {name} is then made again, to the same bits"
        )

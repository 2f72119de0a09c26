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


def damage(folder: Path, sizes: Mapping[str, int]) -> tuple[Path, str] | None:
    """Return the first file that is not as its stage left it, and how it is; None where all are.

    Args:
        folder: where the finished stage lies.
        sizes: path -> bytes as the stage left them; empty where an earlier version did not say.
    """
    for below, size in sizes.items():
        path = folder / below
        if not path.is_file():
            return path, f"is gone; it had {size} bytes"
        if (now := path.stat().st_size) != size:
            return path, f"has {now} bytes and had {size}"
    return None


def check_whole(reader: str, name: str, folder: Path, sizes: Mapping[str, int]) -> None:
    """Refuse to read a finished stage that is damaged.

    Args:
        reader: the stage that is about to read it.
        name: the finished stage.
        folder: where it lies.
        sizes: path -> bytes as the stage left them.

    Raises:
        ToolkitError: a file is gone or of another size; it names the file and the fix.
    """
    found = damage(folder, sizes)
    if found is not None:
        raise ToolkitError(
            f"{reader} reads {found[0]}, which {found[1]} when {name} finished; delete {folder} "
            f"and run the same command again: {name} is then made again, to the same bits"
        )

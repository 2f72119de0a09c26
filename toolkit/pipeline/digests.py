"""Digests of input files: blake2b of the content, remembered by (path, size, mtime)."""

from __future__ import annotations

import hashlib
import importlib.machinery
import os
import time
from pathlib import Path

from toolkit.pipeline.files import read_json, write_json_atomic

ABSENT = "absent"
_BLOCK = 1 << 20
_RACY_NS = 2_000_000_000


class Digests:
    """File digests with a memory in `cache` (a JSON file), so that a second look reads no content.

    A file changed less than 2 s ago is not remembered: a second change within the clock's grain
    would leave its size and mtime as they were.
    """

    def __init__(self, cache: Path | None = None) -> None:
        """Read the memory in `cache` if there is one; None keeps the memory in this process."""
        self.cache = cache
        stored = read_json(cache) if cache else None
        self.memory: dict[str, list[object]] = stored if isinstance(stored, dict) else {}
        self.changed = False

    def file(self, path: Path) -> str:
        """Return 32 hex digits for the content of `path`, or "absent"."""
        try:
            stat = path.stat()
        except OSError:
            return ABSENT
        known = self.memory.get(str(path.absolute()))
        if known and known[:2] == [stat.st_size, stat.st_mtime_ns]:
            return str(known[2])
        digest = _read_digest(path)
        if time.time_ns() - stat.st_mtime_ns > _RACY_NS:
            self.memory[str(path.absolute())] = [stat.st_size, stat.st_mtime_ns, digest]
            self.changed = True
        return digest

    def tree(self, path: str) -> dict[str, str]:
        """Return path -> digest for a file, or for each file below a folder but hidden ones."""
        root = Path(path)
        if not root.is_dir():
            return {path: self.file(root)}
        found = sorted(p for p in root.rglob("*") if p.is_file() and not _hidden(p, root))
        return {str(p): self.file(p) for p in found} or {path: ABSENT}

    def save(self) -> None:
        """Keep the memory on disk when its folder exists and may be written: it only saves time."""
        if self.changed and self.cache and os.access(self.cache.parent, os.W_OK):
            write_json_atomic(self.cache, self.memory)
            self.changed = False


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _read_digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def function_file(reference: str) -> str:
    """Return the file of a plug-in named `path/to/file.py:function` or `package.module:function`.

    The module is searched for, not imported: `plan` runs no user code. A module that cannot be
    found is returned as it was written; its digest is then "absent".
    """
    place = reference.rpartition(":")[0] or reference
    if place.endswith(".py"):
        return place
    search: list[str] | None = None
    origin: str | None = None
    name = ""
    for part in place.split("."):
        name = f"{name}.{part}" if name else part
        found = importlib.machinery.PathFinder.find_spec(name, search)
        if found is None:
            return place
        origin = found.origin
        search = list(found.submodule_search_locations or [])
    return origin or place

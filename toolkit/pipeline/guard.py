"""One process per run folder: an advisory lock that the kernel releases when its holder dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit.spec.errors import ToolkitError


@contextmanager
def only_writer(run: Path) -> Iterator[None]:
    """Hold the run folder's lock. Raises ToolkitError when another process holds it."""
    handle = os.open(run / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 32).decode("ascii", "replace").strip()
            by = f"process {holder}" if holder else "another process"
            raise ToolkitError(
                f"{run}: {by} is running in this folder; wait for it to end, or give this run "
                "another folder with out=..."
            ) from None
        os.truncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)

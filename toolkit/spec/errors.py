"""Errors a user can act on, each with its exit code. Imports nothing of ours.

0 done   1 a stage failed   2 spec   3 data   4 does not fit   5 a gate failed   6 waits for labels
130 interrupted
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Problem:
    """One thing wrong, and where.

    Args:
        file: file name as the user wrote it, or "command line".
        line: 1-based; 0 when the problem has no line.
        col: 1-based; 0 when the problem has no column.
        path: dotted spec path or record field; "" for the whole file.
        message: what was found, what was expected, the fix.
    """

    file: str
    line: int
    col: int
    path: str
    message: str

    def __str__(self) -> str:
        """Return `file:line:col  path  message`, without the parts that are absent."""
        numbers = [str(n) for n in (self.line, self.col) if n > 0]
        place = ":".join([self.file, *numbers])
        return "  ".join(part for part in (place, self.path, self.message) if part)


class ToolkitError(Exception):
    """An error whose text is for the user; `exit_code` is what the command returns."""

    exit_code = 1


class StageFailed(ToolkitError):
    """A stage could not go on, such as a NaN in a loss. The message names the cause and the fix."""

    exit_code = 1


class _Problems(ToolkitError):
    """Several problems at once, in file order."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Keep `problems`, which must not be empty."""
        self.problems = tuple(problems)
        if not self.problems:
            raise ValueError(f"{type(self).__name__} needs at least one problem")
        super().__init__("\n".join(str(problem) for problem in self.problems))


class SpecError(_Problems):
    """The spec is wrong."""

    exit_code = 2


class DataError(_Problems):
    """The data is wrong."""

    exit_code = 3


class DoesNotFit(ToolkitError):
    """The run needs more than the machine has."""

    exit_code = 4


class GateFailed(ToolkitError):
    """A stage finished below its gate; later stages do not run."""

    exit_code = 5


class WaitsForLabels(ToolkitError):
    """The run needs rankings that somebody still has to make."""

    exit_code = 6


_SYSTEM = {
    errno.ENOSPC: "no space is left on that disk; make room",
    errno.EDQUOT: "the disk quota is used up; make room",
    errno.EACCES: "permission denied; ask for the right to it, or name another place",
    errno.EPERM: "not permitted; ask for the right to it, or name another place",
    errno.EROFS: "the disk can only be read; name another place",
    errno.EISDIR: "is a folder where a file was expected; name a file",
    errno.ENOTDIR: "a part of this path is a file; name a folder",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EIO: "the disk reports a fault; look at it, or name another place",
}


def system_error_text(error: OSError) -> str | None:
    """Return what the system refused and the fix, "PATH: ..."; None for what is no matter of it."""
    text = _SYSTEM.get(error.errno or 0)
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return None if text is None else f"{names[-1]}: {text}" if names else text

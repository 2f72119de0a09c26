"""What a user learns when a stage stops by an error that is none of ours: one sentence.

It names the stage and the step, the cause with its fix where it is a known one, what is kept, how
to go on, and the file that holds the traceback.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from toolkit.spec.errors import StageFailed, ToolkitError, system_error_text

TRACEBACK = "traceback.txt"
"""In the work folder of a stage that failed; gone when the stage goes on."""

_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
_SPACE = ("no space left on device", "disk quota exceeded")


def write_traceback(error: BaseException, work: Path) -> Path | None:
    """Write the traceback into the work folder; None where it cannot be written, as on a full disk.

    Args:
        error: what stopped the stage.
        work: the stage's work folder.
    """
    path = work / TRACEBACK
    try:
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    except OSError:
        return None
    return path


def explained(
    error: Exception, name: str, at: str, onwards: str, write: Callable[[], Path | None]
) -> Exception:
    """Return the error that the user sees in place of `error`; itself where it explains itself.

    Args:
        error: what stopped the stage.
        name: of the stage.
        at: how far it was, such as "step 3 of 6"; "" before its first step.
        onwards: what the same command does next, such as "starts it again".
        write: writes the traceback and returns its file, or None where that fails.
    """
    if isinstance(error, StageFailed) and error.__cause__ is not None:
        return StageFailed(f"{error}; {_place(write())}")
    if isinstance(error, (ToolkitError, ModuleNotFoundError)):
        return error
    after = f" after {at}" if at else " before its first step"
    return StageFailed(
        f"{name} stopped{after}: {_cause(error)}; what is finished is kept, and the same command "
        f"{onwards}; {_place(write())}"
    )


def _place(written: Path | None) -> str:
    return f"the traceback is in {written}" if written else "its traceback could not be written"


def _cause(error: Exception) -> str:
    """Return what happened, and the fix where the cause is a known one."""
    for one in _chain(error):
        if (known := _known(one)) is not None:
            return known
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"an unforeseen {type(error).__name__}{': ' if first else ''}{first}".rstrip(".;")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what it followed: closing a file that found no room raises another."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


def _known(error: BaseException) -> str | None:
    text = str(error).lower()
    system = system_error_text(error) if isinstance(error, OSError) else None
    if system is not None and isinstance(error, OSError) and error.filename is not None:
        return system
    if any(words in text for words in _SPACE):
        return "no space is left on the disk of the run folder; make room"
    if isinstance(error, MemoryError) or any(words in text for words in _MEMORY):
        return (
            "the memory does not suffice; lower hardware.micro_batch, set hardware."
            "gradient_checkpointing: true (each is a part of every trained result, so earlier "
            "stages run again too), or use a machine with more memory"
        )
    return system

"""Ctrl-C in a running stage: wait for the end of the step, so that its work can be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType


@contextmanager
def interrupts_wait(
    worthwhile: Callable[[], bool], tell: Callable[[], None]
) -> Iterator[Callable[[], bool]]:
    """Hold the first Ctrl-C back; the second interrupts at once.

    Only the main thread can do so, and only where Ctrl-C interrupts Python at all; elsewhere
    nothing is held back.

    Args:
        worthwhile: whether a checkpoint can be saved after this step; else nothing is held back.
        tell: called when an interrupt was held back.

    Yields:
        whether one was.
    """
    asked = False
    before = signal.getsignal(signal.SIGINT)

    def hold(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        signal.signal(signal.SIGINT, before)
        if not worthwhile():
            raise KeyboardInterrupt
        asked = True
        with suppress(OSError, RuntimeError):  # it may come while the same stream is written to
            tell()

    ours = threading.current_thread() is threading.main_thread() and callable(before)
    if ours:
        signal.signal(signal.SIGINT, hold)
    try:
        yield lambda: asked
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)

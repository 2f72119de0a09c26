"""Ctrl-C in a running stage: wait for the end of the step or of the stage, so no work is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType


class Interrupts:
    """Hold the first Ctrl-C back once `hold` was called; the second interrupts at once.

    Only the main thread can do so, and only where Ctrl-C interrupts Python at all; elsewhere
    nothing is held back. The end of the `with` block brings the handler that was there back.

    Attributes:
        asked: whether one was held back.
    """

    def __init__(self) -> None:
        """Hold nothing back yet."""
        self.asked = False
        self.before = signal.getsignal(signal.SIGINT)
        main = threading.current_thread() is threading.main_thread()
        self.ours = main and callable(self.before)

    def hold(self, tell: Callable[[], None]) -> None:
        """Hold the next Ctrl-C back, and call `tell` when it comes."""

        def handle(number: int, frame: object) -> None:
            signal.signal(signal.SIGINT, self.before)
            self.asked = True
            with suppress(OSError, RuntimeError):  # it may come while that stream is written to
                tell()

        if self.ours:
            signal.signal(signal.SIGINT, handle)

    def __enter__(self) -> Interrupts:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Hold nothing back any more."""
        if self.ours:
            signal.signal(signal.SIGINT, self.before)

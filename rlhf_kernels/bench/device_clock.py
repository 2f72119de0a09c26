"""The clocks of a GPU: events around calls, replays of a graph of many calls, peak memory.

An event is stamped when the device reaches it. So that the calls between two events wait in the
queue and not for Python, the device first idles while Python fills the queue: what is measured is
the device's time, launches hidden as far as they can be. A graph of calls shows it without any
launch, the host's clock over many calls with all of them.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

Call = Callable[[], Any]

#: Cycles the device idles before a timed call, about 0.2 ms: what Python needs to queue a call.
HEAD_START = 400_000
REPLAYS = 20


class DeviceClock:
    """Times calls on the current CUDA device; every time is in seconds per call."""

    def time_calls(self, calls: Sequence[Call]) -> list[float]:
        """Return the seconds of each call, between an event before and one after it.

        The results are kept until all have run, so that each call writes to memory of its own.
        """
        pairs, kept = [], []
        for call in calls:
            pair = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            torch.cuda._sleep(HEAD_START)
            pair[0].record()
            kept.append(call())
            pair[1].record()
            pairs.append(pair)
        torch.cuda.synchronize()
        return [first.elapsed_time(last) / 1e3 for first, last in pairs]

    def time_once(self, call: Call) -> tuple[float, Any]:
        """Return the seconds until the results are there, and the results."""
        torch.cuda.synchronize()
        start = time.perf_counter()
        results = call()
        torch.cuda.synchronize()
        return time.perf_counter() - start, results

    def time_host(self, calls: Sequence[Call]) -> float:
        """Return the seconds per call as a program sees them: launches included, one wait."""
        torch.cuda.synchronize()
        start = time.perf_counter()
        for call in calls:
            call()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / len(calls)

    def time_graph(self, calls: Sequence[Call], prepare: Call | None = None) -> float:
        """Return the median seconds per call of replays of one graph that holds all the calls.

        Args:
            calls: recorded one after the other.
            prepare: restores what the calls overwrite, before each replay.

        Raises:
            RuntimeError: a call waits for the device, or does something else no graph can hold.
        """
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = [call() for call in calls]

        def replay() -> None:
            graph.replay()

        found = []
        for _ in range(REPLAYS):
            if prepare:
                prepare()
            found += self.time_calls([replay])
        del kept
        return sorted(found)[len(found) // 2] / len(calls)

    def measure_peak_memory(self, call: Call) -> float | None:
        """Return how many MiB torch holds at its highest beyond what it held before the call."""
        gc.collect()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

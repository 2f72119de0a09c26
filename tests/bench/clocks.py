"""A device clock that runs on the CPU: what it returns is written in the calls, not measured."""

from __future__ import annotations

from rlhf_kernels.bench.device_clock import DeviceClock


class FakeClock(DeviceClock):
    """Every call takes the seconds that its results name, so that ratios are known exactly."""

    def __init__(self, graphs=True):
        self.groups = []
        self.graphs = graphs

    def time_calls(self, calls):
        results = [call() for call in calls]
        self.groups.append(results)
        return [float(result["seconds"]) for result in results]

    def time_once(self, call):
        return 0.5, call()

    def time_host(self, calls):
        return sum(float(call()["seconds"]) for call in calls) / len(calls) + 1e-4

    def time_graph(self, calls, prepare=None):
        if not self.graphs:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        return sum(float(call()["seconds"]) for call in calls) / len(calls)

    def measure_peak_memory(self, call):
        call()
        return 3.0

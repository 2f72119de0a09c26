"""What a competitor's process measures of itself, and how it answers. Standard library only.

seconds = from after the imports until the model is written
pace    = (n - 1) / (time of step n - time of step 1): steps per second, the first left out
peak    = VmHWM of the process, bytes; `imports` is its memory before any work
gpu     = on a GPU its name and the most bytes that torch's tensors held there
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

Job = dict[str, Any]

SO_FAR = "so_far.json"  # beside result.json, on a GPU

PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets")


class Measure:
    """A process' clock and memory; made when all imports are done.

    Args:
        device: "cpu" or "cuda"; a step on a GPU has ended when the GPU has done it.
        so_far: file that has the figures up to the last step, for a process that is stopped.
    """

    def __init__(self, device: str = "cpu", so_far: Path | None = None) -> None:
        self.so_far = so_far
        self.cuda = sys.modules["torch"].cuda if device == "cuda" else None
        self.start = time.perf_counter()
        self.imports = memory("VmRSS")
        self.steps: list[float] = []

    def step(self) -> None:
        """Note the end of an optimizer step, or of a PPO iteration."""
        if self.cuda is not None:
            self.cuda.synchronize()
        self.steps.append(time.perf_counter())
        if self.so_far is not None:
            self.so_far.write_text(json.dumps(self.result()), encoding="utf-8")

    def result(self) -> dict[str, Any]:
        """Return the figures up to now."""
        return {
            "seconds": time.perf_counter() - self.start,
            "steps": len(self.steps),
            "pace": pace(self.steps),
            "imports": self.imports,
            "peak": memory("VmHWM"),
            **self.gpu(),
        }

    def gpu(self) -> dict[str, Any]:
        """Return name and peak memory of the GPU in use; nothing without one."""
        if self.cuda is None:
            return {}
        return {
            "gpu": self.cuda.get_device_name(),
            "gpu_peak": self.cuda.max_memory_allocated(),
            "products": sys.modules["torch"].get_float32_matmul_precision(),
        }


def pace(steps: list[float]) -> float | None:
    """Return steps per second without the first; None for fewer than two."""
    if len(steps) < 2 or steps[-1] <= steps[0]:
        return None
    return (len(steps) - 1) / (steps[-1] - steps[0])


def memory(name: str) -> int:
    """Return VmRSS or VmHWM of this process in bytes; 0 where the system does not say."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0


def versions() -> dict[str, str]:
    """Return package -> version of those installed; of two, that which is imported."""
    installed: dict[str, str] = {}
    for each in metadata.distributions():
        installed.setdefault((each.metadata["Name"] or "").lower(), each.version)
    found = {name: installed[name] for name in PACKAGES if name in installed}
    return {"python": sys.version.split()[0], **found}


def read_lines(path: Path | str) -> list[dict[str, Any]]:
    """Read JSON Lines."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """Write JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")


def serve(stages: dict[str, Callable[[Job, Measure], dict[str, Any]]]) -> None:
    """Read the job that the command line names, do its stage, write result.json beside it.

    A stage returns its settings, as the objects that used them have them.
    """
    job: Job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    device = job.get("device", "cpu")
    so_far = None if device == "cpu" else Path(job["out"], SO_FAR)
    measure = Measure(device, so_far)
    settings = stages[job["stage"]](job, measure)
    result = {**measure.result(), "settings": settings, "versions": versions()}
    text = json.dumps(result, indent=1)
    Path(job["out"], "result.json").write_text(text, encoding="utf-8")

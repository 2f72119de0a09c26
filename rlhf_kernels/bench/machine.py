"""What the machine is and can do: names, memory bandwidth, caches, peak memory of a call."""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlhf_kernels import _registry as registry

#: Larger than the last-level cache of the machines we know (32 to 105 MB seen by one core).
COLD_BYTES = 128 * 2**20
STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")

Clock = Callable[[], float]  # returns seconds
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.thread_time}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a row was measured.

    Args:
        read_gb_s: a sum over 256 MB; on a GPU a native probe; bytes read. None: not measured.
        update_gb_s: the better of a copy and a multiplication in place; on a GPU a copy; bytes
            read and written.
        load: processes that wanted to run in the minute before the start, this one not counted.
        driver: of the GPU, like the following: empty or None for a CPU.
        cuda: the version torch was built with.
        l2_mib: the second-level cache, as the device reports it.
        power_limit_w: as set by whoever runs the machine.
        matmul_tflops: of a large bfloat16 product in torch.
    """

    device: str
    threads: int
    isa: str
    torch: str
    version: str
    commit: str
    date: str
    read_gb_s: float | None
    update_gb_s: float | None
    load: float
    driver: str = ""
    cuda: str = ""
    l2_mib: float | None = None
    power_limit_w: float | None = None
    matmul_tflops: float | None = None


def describe_machine(clock: Clock = time.perf_counter) -> Machine:
    """Read the names and measure the bandwidths with the clock of the benchmarks."""
    load = os.getloadavg()[0]
    read, update = measure_bandwidth(clock)
    return Machine(
        device=find_cpu_name(),
        threads=torch.get_num_threads(),
        isa=registry.current_isa(),
        torch=torch.__version__,
        version=find_version(),
        commit=find_commit(),
        date=time.strftime("%Y-%m-%d"),
        read_gb_s=read,
        update_gb_s=update,
        load=load,
    )


def find_cpu_name() -> str:
    """Return the processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def find_version() -> str:
    """Return the installed version, empty when the package is used from its folder."""
    try:
        return importlib.metadata.version("rlhf-toolkit")
    except importlib.metadata.PackageNotFoundError:
        return ""


def find_commit() -> str:
    """Return the short commit, with `+` when the kernels' sources differ from it."""
    root = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--", "csrc", "rlhf_kernels")
        return git("rev-parse", "--short", "HEAD") + ("+" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def measure_bandwidth(
    clock: Clock = time.perf_counter, seconds: float = 0.6
) -> tuple[float, float]:
    """Return what this process reads, and reads and writes, in GB/s: the best of several passes.

    The best pass, not the median, because a share of the roofline must not look better for noise.
    """
    source = torch.ones(64 * 2**20)
    target = torch.empty_like(source)
    size = 4 * source.numel()
    passes: list[tuple[Callable[[], Any], int]] = [
        (source.sum, size),
        (lambda: target.copy_(source), 2 * size),
        (lambda: target.mul_(1.0), 2 * size),
    ]
    best = [0.0, 0.0, 0.0]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(best) == 0.0:
        for index, (work, moved) in enumerate(passes):
            start = clock()
            work()
            best[index] = max(best[index], moved / (clock() - start) / 1e9)
    return best[0], max(best[1:])


class CacheFlusher:
    """Empty the caches between runs: read a buffer that does not fit in them."""

    def __init__(self) -> None:
        self._buffer = torch.ones(COLD_BYTES // 4)

    def flush(self) -> None:
        """Replace what the caches hold; dirty lines are written back."""
        self._buffer.sum()


def measure_peak_memory(work: Callable[[], Any]) -> float | None:
    """Return how many MiB `work` held at its highest beyond what was there before.

    The kernel's own count of resident pages (VmHWM, reset through clear_refs), so it contains
    scratch memory inside C++ and libraries as well as tensors. Freed heap is given back first,
    otherwise an allocation could reuse pages that are resident already and count for nothing.
    None where the system has no such counter. Under 1 MiB it is the noise of the page table.
    """
    if not CLEAR_REFS.exists():
        return None
    gc.collect()
    give_back_heap()
    before = read_status("VmRSS")
    try:
        CLEAR_REFS.write_text("5", encoding="ascii")
    except OSError:
        return None
    work()
    peak = read_status("VmHWM")
    return max(0.0, (peak - before) / 1024)


def give_back_heap() -> None:
    """Return freed heap pages to the system, where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def read_status(name: str) -> int:
    """Return a field of /proc/self/status in KiB."""
    for line in STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"{STATUS} has no field {name}")

"""What a GPU is and can do: names, clocks, and the rates that this process reaches on it.

Nothing here changes a setting of the device; clocks and limits are read as they are.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rlhf_kernels import _registry as registry
from rlhf_kernels.bench.device_clock import DeviceClock
from rlhf_kernels.bench.machine import Machine, find_commit, find_version

COPY_BYTES = 2**30
MATMUL_SIZE = 8192
PASSES = 20
PROBE_RESULTS = 1024
MEBIBYTE = 2**20

#: What nvidia-smi is asked for, in this order.
FIELDS = ("driver_version", "power.limit", "clocks.sm", "clocks.mem")


def choose_device(asked: str | None) -> tuple[str, str]:
    """Return "cpu" or "cuda", and the sentence that says why.

    Raises:
        ValueError: cuda was asked for and cannot be had.
    """
    obstacle = find_obstacle()
    if asked == "cuda" and obstacle:
        raise ValueError(f"--device cuda: {obstacle}; --device cpu measures the CPU kernels")
    if asked:
        return asked, f"device {asked}, as asked"
    if obstacle:
        return "cpu", f"device cpu: {obstacle}"
    return "cuda", "device cuda: there is a GPU, and this build has kernels for it"


def find_obstacle() -> str:
    """Return why the CUDA kernels cannot be measured here, or nothing."""
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    if not registry.has_cuda():
        return "this build has no CUDA kernels (RLHF_KERNELS_CUDA=ON builds them)"
    return ""


def describe_device(clock: DeviceClock) -> Machine:
    """Read the names of the current device and measure its rates."""
    found = torch.cuda.get_device_properties(torch.cuda.current_device())
    told = ask_smi(f"GPU-{found.uuid}")
    read, copied = measure_rates(clock, "cuda", COPY_BYTES)
    return Machine(
        device=found.name,
        threads=torch.get_num_threads(),
        isa=f"sm_{found.major}{found.minor}",
        torch=torch.__version__,
        version=find_version(),
        commit=find_commit(),
        date=time.strftime("%Y-%m-%d"),
        read_gb_s=read,
        update_gb_s=copied,
        load=os.getloadavg()[0],
        driver=told.get("driver_version", ""),
        cuda=torch.version.cuda or "",
        l2_mib=found.L2_cache_size / MEBIBYTE,
        power_limit_w=to_number(told.get("power.limit", "")),
        matmul_tflops=measure_matmul(clock, "cuda", MATMUL_SIZE),
    )


def measure_rates(clock: DeviceClock, device: str, size: int) -> tuple[float | None, float | None]:
    """Return what this process reads, and reads and writes, in GB/s: the best of several passes.

    The best, not the median, because a share of the roofline must not look better for noise. The
    read rate is None when the build has no probe: sums of torch are not as fast as reading is.
    """
    source = torch.rand(size // 4, device=device)
    target = torch.empty_like(source)
    copied = best_rate(clock, lambda: target.copy_(source), 2 * size)
    probe = find_probe()
    if probe is None:
        return None, copied
    out = torch.zeros(PROBE_RESULTS, device=device)
    return best_rate(clock, lambda: probe(source, out), size), copied


def find_probe() -> Callable[[Tensor, Tensor], None] | None:
    """Return the native function that only reads a tensor, if this build has it."""
    return registry.read_probe if registry.has_cuda() else None


def measure_matmul(clock: DeviceClock, device: str, size: int) -> float:
    """Return the TFLOP/s of a square bfloat16 product, the best of several."""
    # Products of constants run faster than those of data.
    left, right = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    return best_rate(clock, lambda: left @ right, 2 * size**3) / 1e3


def best_rate(clock: DeviceClock, work: Callable[[], object], amount: float) -> float:
    """Return `amount` a second of the fastest of several passes, in thousands of millions."""
    return max(amount / clock.time_calls([work])[0] for _ in range(PASSES)) / 1e9


def ask_smi(device: str) -> dict[str, str]:
    """Return the fields that nvidia-smi gives for a device; empty where it gives none."""
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", f"--id={device}", f"--query-gpu={','.join(FIELDS)}"]
    command += ["--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return parse_smi(done.stdout) if done.returncode == 0 else {}


def parse_smi(line: str, fields: Sequence[str] = FIELDS) -> dict[str, str]:
    """Return the cells of a line of nvidia-smi by field; another number of cells gives none."""
    cells = [cell.strip() for cell in line.strip().split(",")]
    return dict(zip(fields, cells, strict=True)) if len(cells) == len(fields) else {}


def to_number(text: str) -> float | None:
    """Return a number, or None for "[N/A]" and the like."""
    try:
        return float(text)
    except ValueError:
        return None


def read_clocks() -> tuple[float | None, float | None]:
    """Return the clocks of the multiprocessors and of the memory in MHz, None where unknown."""
    name = f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
    if importlib.util.find_spec("pynvml") is not None:
        return read_nvml_clocks(name)
    told = ask_smi(name)
    return to_number(told.get("clocks.sm", "")), to_number(told.get("clocks.mem", ""))


def read_nvml_clocks(name: str) -> tuple[float | None, float | None]:
    """Return the same from the driver's library, which answers without starting a program."""
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(name)
        kinds = (pynvml.NVML_CLOCK_SM, pynvml.NVML_CLOCK_MEM)
        sm, memory = (float(pynvml.nvmlDeviceGetClockInfo(handle, kind)) for kind in kinds)
    except pynvml.NVMLError:  # what the driver does not tell stays an empty column
        return None, None
    return sm, memory

"""`doctor`: what this machine has, what is missing, and how to get it."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from toolkit.pipeline import gpu
from toolkit.pipeline.sizes import size_text

DESCRIPTION = """Look at this machine: Python, torch, the native kernels, threads, compiler, GPU,
memory, disk and optional packages. One line each; what is missing comes with its fix.

Returns 1 when something a run needs is missing, else 0."""

EXAMPLES = "  python -m toolkit doctor"

_NEEDED = ("torch", "transformers", "tokenizers", "safetensors", "omegaconf", "numpy", "rich")
_OPTIONAL = {
    "datasets": "parquet, CSV and datasets folders as data",
    "matplotlib": "plots in the report",
    "tensorboard": "log: [tensorboard]",
    "zstandard": "pretraining text as .txt.zst",
}
_GIB = 1024**3
_MIN_DISK = 2 * 10**9


@dataclass(frozen=True)
class Line:
    """One finding: `state` is ok, note (works without) or missing (a run needs it)."""

    state: str
    name: str
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no arguments."""


def run(args: argparse.Namespace) -> int:
    """Print the findings."""
    lines = [
        _python(),
        *map(_needed, _NEEDED),
        _kernels(),
        _processor(),
        _threads(),
        _compiler(),
        _gpu(),
        _cuda(),
        _memory(),
        _disk(),
        *(_optional(name, use) for name, use in _OPTIONAL.items()),
    ]
    for line in lines:
        print(f"{line.state:<8} {line.name:<13} {line.text}")
    return 1 if any(line.state == "missing" for line in lines) else 0


def _python() -> Line:
    return Line("ok", "python", f"{platform.python_version()} at {sys.executable}")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _needed(name: str) -> Line:
    version = _version(name)
    if version is None:
        return Line("missing", name, f"not installed; run: pip install {name}")
    return Line("ok", name, version)


def _optional(name: str, use: str) -> Line:
    version = _version(name)
    if version is None:
        return Line("note", name, f"not installed, wanted for {use}; run: pip install {name}")
    return Line("ok", name, version)


def _kernels() -> Line:
    """Import the kernels and use one, since a file that is there may still not load."""
    try:
        kernels = importlib.import_module("rlhf_kernels")
        torch = importlib.import_module("torch")
        zero = torch.zeros(1)
        value = float(kernels.token_kl(zero, zero))
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return Line(
            "missing", "kernels", f"not built ({_first_line(error)}); run: pip install -e ."
        )
    if value != 0.0:
        text = f"token_kl of equal inputs gives {value}; rebuild: pip install -e ."
        return Line("missing", "kernels", text)
    isa = getattr(kernels, "current_isa", None)
    forced = os.environ.get("RLHF_KERNELS_ISA")
    text = "built, token_kl computes" + (f", {isa()}" if isa else "")
    return Line("ok", "kernels", text + (f" (RLHF_KERNELS_ISA={forced})" if forced else ""))


def _processor() -> Line:
    flags = _processor_flags()
    known = [name for name in ("avx512f", "avx2", "fma") if name in flags]
    text = f"{platform.machine()} {' '.join(known)}".strip()
    if known:
        return Line("ok", "processor", text)
    return Line("note", "processor", f"{text}; no AVX2 found, so the baseline kernels run")


def _processor_flags() -> frozenset[str]:
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return frozenset()
    for line in info.read_text(encoding="utf-8").splitlines():
        if line.startswith(("flags", "Features")):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def _threads() -> Line:
    cores = len(os.sched_getaffinity(0))
    limit = os.environ.get("OMP_NUM_THREADS")
    if limit and limit != str(cores):
        text = f"{cores} cores, but OMP_NUM_THREADS={limit}; unset it, or set hardware.threads"
        return Line("note", "threads", text)
    return Line("ok", "threads", f"{cores}")


def _compiler() -> Line:
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and shutil.which(name):
            return Line("ok", "compiler", f"{name}: {_first_output_line(name, '--version')}")
    return Line("note", "compiler", "none; to build the kernels install g++ or clang++")


def _first_output_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return next(iter(done.stdout.splitlines()), f"exit code {done.returncode}")


def _gpu() -> Line:
    """Name the GPU, and what keeps runs from using it."""
    found = gpu.find_gpu()
    if isinstance(found, str):
        return Line("note", "gpu", f"{found}; runs use the CPU")
    capability, driver = (".".join(map(str, pair)) for pair in (found.capability, found.driver))
    text = (
        f"{found.name}, {found.memory / _GIB:.1f} GiB, compute capability {capability}, "
        f"driver for CUDA {driver}"
    )
    against = gpu.obstacle()
    if against is not None:
        return Line("note", "gpu", f"{text}; runs use the CPU: {against}")
    return _gpu_computes(text)


def _gpu_computes(text: str) -> Line:
    """Use a kernel on the GPU, since what is installed may still not work together."""
    try:
        kernels = importlib.import_module("rlhf_kernels")
        torch = importlib.import_module("torch")
        zero = torch.zeros(1, device="cuda")
        value = float(kernels.token_kl(zero, zero))
    except (ImportError, OSError, RuntimeError, AssertionError) as error:
        fix = "reinstall torch and rlhf_kernels for this driver, or set hardware.device: cpu"
        return Line("missing", "gpu", f"{text}; it does not compute ({_first_line(error)}); {fix}")
    if value != 0.0:
        wrong = f"token_kl of equal inputs gives {value} there; rebuild: pip install -e ."
        return Line("missing", "gpu", f"{text}; {wrong}")
    return Line("ok", "gpu", f"{text}; token_kl computes there, runs use it")


def _cuda() -> Line:
    """Say what torch and the kernels are built for."""
    torch_for, kernels = gpu.torch_cuda(), gpu.kernels_have_cuda()
    text = f"torch for CUDA {torch_for}" if torch_for else "torch without CUDA"
    text += f", kernels {'with' if kernels else 'without'} CUDA"
    return Line("ok" if torch_for and kernels else "note", "builds", text)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _memory() -> Line:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Line("ok", "memory", f"{total / _GIB:.1f} GiB")


def _disk() -> Line:
    free = shutil.disk_usage(".").free
    text = f"{size_text(free)} free in the current directory"
    if free < _MIN_DISK:
        return Line("note", "disk", f"{text}; a run wants {size_text(_MIN_DISK)}, make room")
    return Line("ok", "disk", text)

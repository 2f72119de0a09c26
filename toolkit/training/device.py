"""The device a stage computes on: made ready once, fed from the CPU, read back seldom.

Token batches, records and random numbers are made on the CPU and moved, so that a run on a GPU
sees what a run on the CPU sees. Every read of a GPU's number makes the CPU wait for all work
before it; hence numbers of a step are read together, after its last micro-batch.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Sequence

import torch
from torch import Tensor

import rlhf_kernels as rk
from toolkit.spec.errors import StageFailed

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_WORKSPACE = ":4096:8"  # the cuBLAS setting that torch's deterministic mode asks for


def prepare_device(device: str, *, deterministic: bool) -> None:
    """Set up the device before its first use in this process.

    fp32 matrix products on a GPU keep all their bits (no TF32).

    Raises:
        StageFailed: torch or the kernels cannot use the GPU that the run was planned for.
    """
    if device == "cpu":
        return
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", _WORKSPACE)
    if not torch.cuda.is_available():
        raise StageFailed(
            "torch cannot use the GPU that the driver shows: install a build of torch that fits "
            "the driver (python -m toolkit doctor), or set hardware.device: cpu"
        )
    if not rk.has_cuda():
        raise StageFailed(
            "rlhf_kernels has no CUDA kernels: reinstall with nvcc on PATH "
            "(pip install --no-build-isolation -e .), or set hardware.device: cpu"
        )
    torch.set_float32_matmul_precision("highest")
    torch.cuda.reset_peak_memory_stats()


def peak_device_memory(device: str) -> int | None:
    """Return the most bytes that tensors held on the GPU since `prepare_device`; None on a CPU."""
    return None if device == "cpu" else torch.cuda.max_memory_allocated()


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a CPU tensor on `device`; to a GPU the copy runs beside the CPU's work."""
    if device.type == "cpu" or tensor.device == device:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def read(scalars: Sequence[Tensor]) -> list[float]:
    """Return 0-d tensors of one dtype as numbers, waiting for their device once."""
    return read_rows([scalars])[0] if scalars else []


def read_rows(rows: Sequence[Sequence[Tensor]]) -> list[list[float]]:
    """Return rows of equally many 0-d tensors of one dtype as numbers, waiting once."""
    if not rows:
        return []
    numbers: list[list[float]] = torch.stack([torch.stack(list(row)) for row in rows]).tolist()
    return numbers


def set_up_memory() -> None:
    """Have glibc give freed blocks of 4 MiB and more back to the system, and keep smaller ones.

    By default it keeps blocks of up to 32 MiB for later, and pieces of them in between: 3 % of the
    peak of a PPO step over a vocabulary of 50257. Setting that limit also stops glibc from raising
    the other one, 128 KiB of free memory at the heap's end: without a limit of our own every step
    would take its activations anew, page by page. Other C libraries have no such settings.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, 4 * 2**20)
        library.mallopt(_M_TRIM_THRESHOLD, 64 * 2**20)

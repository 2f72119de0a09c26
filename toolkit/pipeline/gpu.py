"""Whether stages can run on an NVIDIA GPU, and if not, why and what to do. Imports no torch.

The driver is asked through its own library, so `plan` and `doctor` answer without loading torch.
Only the first visible GPU counts; CUDA_VISIBLE_DEVICES chooses another.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import mmap
import re
from dataclasses import dataclass
from pathlib import Path

OLDEST = (8, 0)
"""Compute capability that the CUDA kernels are compiled for at least."""

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_MARK = b".nv_fatbin"  # the section that holds a binary's device code


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The first visible GPU.

    Args:
        name: as the driver says it, such as "NVIDIA H200".
        capability: compute capability, (major, minor).
        memory: bytes.
        driver: newest CUDA version of the driver, (major, minor).
    """

    name: str
    capability: tuple[int, int]
    memory: int
    driver: tuple[int, int]


@functools.lru_cache(maxsize=1)
def find_gpu() -> Gpu | str:
    """Return the GPU, or one sentence why there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        if not Path("/proc/driver/nvidia").exists() and not Path("/dev/nvidia0").exists():
            return "no NVIDIA GPU is here"
        return (
            "an NVIDIA driver is here, but its library libcuda.so.1 cannot be loaded: install the "
            "driver's user part (in a container: start it with its GPUs)"
        )
    code = driver.cuInit(0)
    count = ctypes.c_int()
    if code == 0:
        driver.cuDeviceGetCount(ctypes.byref(count))
    if code == _NO_DEVICE or (code == 0 and count.value == 0):
        return "the driver shows no GPU: look at CUDA_VISIBLE_DEVICES and at nvidia-smi"
    if code != 0:
        return f"the NVIDIA driver does not start (error {code}): look at nvidia-smi"
    return _describe(driver)


def _describe(driver: ctypes.CDLL) -> Gpu:
    device, number, size = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    driver.cuDeviceGet(ctypes.byref(device), 0)
    text = ctypes.create_string_buffer(256)
    driver.cuDeviceGetName(text, len(text), device)
    capability = []
    for attribute in (_MAJOR, _MINOR):
        driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        capability.append(number.value)
    driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    driver.cuDriverGetVersion(ctypes.byref(number))
    return Gpu(
        name=text.value.decode(),
        capability=(capability[0], capability[1]),
        memory=size.value,
        driver=(number.value // 1000, number.value % 1000 // 10),
    )


def torch_cuda() -> str | None:
    """Return the CUDA version torch is built for, None where it is built without or not there."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    found = re.search(r"^cuda\b[^=\n]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return found[1] if found else None


def kernel_files() -> list[Path]:
    """Return the files of the native module of `rlhf_kernels`; [] where it is not built."""
    spec = importlib.util.find_spec("rlhf_kernels")
    folders = spec.submodule_search_locations if spec is not None else None
    return [path for folder in folders or () for path in sorted(Path(folder).glob("_C*.so"))]


def kernels_have_cuda() -> bool:
    """Say whether the native module of `rlhf_kernels` holds device code."""
    return any(map(_marked, kernel_files()))


def _marked(path: Path) -> bool:
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return content.find(_MARK) >= 0


def obstacle() -> str | None:
    """Return None where stages can run on the GPU, else one sentence with the cause and the fix."""
    gpu = find_gpu()
    if isinstance(gpu, str):
        return gpu
    if gpu.capability < OLDEST:
        return (
            f"{gpu.name} has compute capability {_dotted(gpu.capability)}, the kernels need "
            f"{_dotted(OLDEST)} (Ampere) or newer: use another GPU"
        )
    built = torch_cuda()
    if built is None:
        return (
            "a GPU is here, but this torch is built without CUDA: install a build of torch for "
            f"CUDA {gpu.driver[0]}, then rlhf_kernels again"
        )
    if int(built.split(".")[0]) > gpu.driver[0]:
        return (
            f"torch is built for CUDA {built}, the driver knows only {_dotted(gpu.driver)}: update "
            f"the driver, or install a build of torch for CUDA {gpu.driver[0]}"
        )
    if not kernels_have_cuda():
        return (
            "a GPU is here, but this build of rlhf_kernels has no CUDA kernels: reinstall with "
            "nvcc on PATH (pip install --no-build-isolation -e .)"
        )
    return None


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"

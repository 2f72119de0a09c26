"""What a run stands on: device, threads, kernel switches, versions. Imports no torch."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, replace
from importlib import metadata

from toolkit.pipeline import gpu
from toolkit.spec.errors import DoesNotFit
from toolkit.spec.schema import Hardware

ISA_SWITCH = "RLHF_KERNELS_ISA"
"""Environment variable that forces an instruction set of the CPU kernels; part of every key."""

PACKAGES = (
    "rlhf-toolkit",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "omegaconf",
    "datasets",
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Resolved hardware settings.

    Args:
        device: "cpu" or "cuda".
        why: how it was chosen, one sentence.
        threads: CPU threads.
        isa: forced instruction set of the kernels; None: the best the CPU has.
        gpu: the GPU's name where `device` is "cuda".
    """

    device: str
    why: str
    threads: int
    isa: str | None = None
    gpu: str | None = None

    @property
    def device_text(self) -> str:
        """Return the device as it stands in a stage's key: "cpu", or "cuda NVIDIA H200"."""
        return f"{self.device} {self.gpu}" if self.gpu else self.device


def resolve_machine(hardware: Hardware) -> Machine:
    """Choose what the spec leaves open, and say why.

    Raises:
        DoesNotFit: the spec asks for a GPU that stages cannot run on.
    """
    cores = len(os.sched_getaffinity(0))
    threads = hardware.threads or cores
    how = "hardware.threads" if hardware.threads else "all cores"
    name, reason = _choose(hardware)
    machine = Machine(
        device="cuda" if name else "cpu",
        why="",
        threads=threads,
        isa=os.environ.get(ISA_SWITCH) or None,
        gpu=name,
    )
    why = f"device {machine.device_text} ({reason}), {threads} threads ({how})"
    return replace(machine, why=f"{why}, {hardware.precision}")


def _choose(hardware: Hardware) -> tuple[str | None, str]:
    """Return (the GPU's name, or None for the CPU; why)."""
    if hardware.device == "cpu":
        return None, "the spec says so"
    against = gpu.obstacle()
    found = gpu.find_gpu()
    if against is None and isinstance(found, gpu.Gpu):
        return found.name, "the spec says so" if hardware.device == "cuda" else "auto: it is usable"
    if hardware.device == "cuda":
        raise DoesNotFit(f"hardware.device is cuda: {against}; or set hardware.device: cpu")
    return None, f"auto: {against}"


def cpu_name() -> str:
    """Return the CPU's model name, or its architecture where the system does not say."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except FileNotFoundError:
        return platform.machine()
    return platform.machine()


def package_versions() -> dict[str, str | None]:
    """Return package -> installed version, None where it is not installed."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def describe(machine: Machine) -> dict[str, object]:
    """Return the machine's part of lock.json."""
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": machine.threads,
        "device": machine.device_text,
        "isa": machine.isa,
        "platform": platform.platform(),
        "python": platform.python_version(),
    }

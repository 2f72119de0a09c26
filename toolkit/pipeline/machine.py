"""What a run stands on: device, threads, kernel switches, versions. Imports no torch."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata

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
        device: "cpu".
        why: how it was chosen, one sentence.
        threads: CPU threads.
        isa: forced instruction set of the kernels; None: the best the CPU has.
    """

    device: str
    why: str
    threads: int
    isa: str | None = None


def resolve_machine(hardware: Hardware) -> Machine:
    """Choose what the spec leaves open, and say why."""
    cores = len(os.sched_getaffinity(0))
    threads = hardware.threads or cores
    how = "hardware.threads" if hardware.threads else "all cores"
    reason = (
        "the spec says so"
        if hardware.device != "auto"
        else "auto: the kernels of this version run on the CPU"
    )
    return Machine(
        device="cpu",
        why=f"device cpu ({reason}), {threads} threads ({how}), {hardware.precision}",
        threads=threads,
        isa=os.environ.get(ISA_SWITCH) or None,
    )


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
        "device": machine.device,
        "isa": machine.isa,
        "platform": platform.platform(),
        "python": platform.python_version(),
    }

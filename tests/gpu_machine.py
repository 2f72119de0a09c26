"""What a machine has for `make gpu-check`: tools, packages, device; nothing here needs torch."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "build" / "wheels-site"
#: What the toolkit's tests import besides torch.
TOOLKIT = ("transformers", "tokenizers", "safetensors", "omegaconf", "yaml", "numpy", "rich")

PROBE = """
import json, torch
found = {"torch": torch.__version__, "cuda": torch.version.cuda, "device": None}
if torch.cuda.is_available():
    found["device"] = torch.cuda.get_device_name()
    found["capability"] = list(torch.cuda.get_device_capability())
    found["memory"] = torch.cuda.get_device_properties(0).total_memory
    found["devices"] = torch.cuda.device_count()
print(json.dumps(found))
"""


def find_tool(name: str) -> str | None:
    """Return a program beside this Python, from wheels/, or on PATH."""
    for folder in (Path(sysconfig.get_path("scripts")), Path(sys.executable).parent, SITE / "bin"):
        if (folder / name).is_file():
            return str(folder / name)
    return shutil.which(name)


def find_cuda_tool(name: str) -> str | None:
    """Return a program of the CUDA toolkit: on PATH, else below the usual folders."""
    folders = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    if name == "nvcc" and os.environ.get("CUDACXX"):
        return os.environ["CUDACXX"]
    places = [Path(f) / part / name for f in folders if f for part in ("bin", "compute-sanitizer")]
    return shutil.which(name) or next((str(p) for p in places if p.is_file()), None)


def is_missing(package: str) -> bool:
    """Say whether neither this Python nor build/wheels-site has a package."""
    return importlib.util.find_spec(package) is None and not (SITE / package).exists()


def add_wheels(folder: Path) -> list[str]:
    """Install the wheels of packages that this Python lacks; return what went wrong."""
    have = {
        re.sub(r"[-_.]+", "-", name).lower()
        for found in importlib.metadata.distributions()
        if (name := found.metadata["Name"])
    }
    problems = []
    for wheel in sorted(folder.glob("*.whl")):
        if re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower() in have:
            continue
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
        done = subprocess.run(
            [*command, "--upgrade", "--target", str(SITE), str(wheel)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            problems.append(f"{wheel.name}: {done.stderr.strip().splitlines()[-1]}")
    return problems


def make_environment() -> dict[str, str]:
    """Return the environment of every step: the packages from wheels/, no caches of others."""
    paths = [str(SITE), str(ROOT), os.environ.get("PYTHONPATH", "")]
    changes = {"PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    nvcc = find_cuda_tool("nvcc")
    return {**os.environ, **changes, **({"CUDACXX": nvcc} if nvcc else {})}


def probe(environment: dict[str, str]) -> dict[str, object]:
    """Return what torch says of the device; empty without torch."""
    command = [sys.executable, "-c", PROBE]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    if done.returncode:
        return {}
    found: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def ask(command: Sequence[str]) -> str:
    """Return the last line that a program prints, or "missing"."""
    if not shutil.which(command[0]):
        return "missing"
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    lines = done.stdout.strip().splitlines()
    return lines[-1] if lines and done.returncode == 0 else "missing"


def describe(found: dict[str, object]) -> str:
    """Return the report on device, driver, versions and what is missing."""
    nvcc, sanitizer = find_cuda_tool("nvcc"), find_cuda_tool("compute-sanitizer")
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm", "--format=csv,noheader"]
    lines = {
        "device": found.get("device") or "none",
        "capability": found.get("capability", "none"),
        "driver, clock": ask(query),
        "torch": f"{found.get('torch', 'missing')}, CUDA {found.get('cuda', 'none')}",
        "python": f"{sys.version.split()[0]} ({sys.executable})",
        "nvcc": ask([nvcc, "--version"]) if nvcc else "missing",
        "compute-sanitizer": sanitizer or "missing",
        "commit": ask(["git", "describe", "--always", "--dirty"]),
        "cmake, ninja": f"{find_tool('cmake') or 'missing'}, {find_tool('ninja') or 'missing'}",
        "missing packages": ", ".join(
            p for p in ("pybind11", "pytest", "xdist", *TOOLKIT) if is_missing(p)
        )
        or "none",
    }
    return "\n".join(f"{name:18s} {value}" for name, value in lines.items())


def refuse(found: dict[str, object], groups: Sequence[str]) -> str | None:
    """Return why this machine cannot do what was asked, in one sentence, or None."""
    version = tuple(int(n) for n in re.findall(r"\d+", str(found.get("torch", "0")))[:2])
    if not found:
        return "this Python has no torch: choose one with PYTHON=/path/to/python"
    if version < (2, 11):
        return f"torch {found['torch']} is older than 2.11: choose another Python with PYTHON=..."
    if not found["device"] and tuple(groups) != ("build",):
        return (
            f"torch {found['torch']} sees no GPU on this machine: `make emulated` checks the"
            " kernels without one, and `--only build` compiles them"
        )
    return None

"""The steps of `make gpu-check`: their commands, their limits in seconds, what they must print."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.gpu_machine import ROOT, TOOLKIT, find_cuda_tool, find_tool, is_missing

BUILD = ROOT / "build" / "gpu-module"
GROUPS = ("build", "test", "sanitize", "bench")
#: Ops of microseconds, and those of whole rows of logits; the linear ones take minutes: --long.
SHORT = ("advantages", "gae", "ppo_loss", "value_loss", "ranking_loss", "sample", "exact_kl")
LOGITS = ("gather_logprobs", "ppo_loss_from_logits", "cross_entropy")
RESULTS = ("docs/results/kernels.csv", "docs/KERNELS.md")


@dataclass(frozen=True)
class Step:
    """One command: its limit in seconds, and what its log must show to count as passed.

    Args:
        expect: a pattern of the log's last match, shown in the summary; its absence is a failure.
        fails: the command must exit with an error (a planted fault).
        needed: without it nothing after it means anything.
        reason: why it cannot run; then it is a row that says so.
    """

    group: str
    name: str
    command: tuple[str, ...] = ()
    limit: int = 60
    expect: str = ""
    fails: bool = False
    needed: bool = False
    reason: str = ""


def choose_arches(found: dict[str, object]) -> str:
    """Return CMake's list of architectures: the device's own, or all without a device."""
    capability = found.get("capability")
    if not isinstance(capability, list):
        return "80-real;90a-real;90-virtual"
    if capability == [9, 0]:
        return "90a-real"
    return "80-real" if capability[0] == 8 else "90-virtual"


def build_steps(arches: str) -> list[Step]:
    """Return the steps of the group `build`."""
    cmake, ninja, nvcc = find_tool("cmake"), find_tool("ninja"), find_cuda_tool("nvcc")
    for name, path in (("cmake", cmake), ("ninja", ninja), ("nvcc", nvcc)):
        if path is None:
            return [
                Step(
                    "build",
                    "build",
                    needed=True,
                    reason=f"{name} is neither on PATH nor in wheels/",
                )
            ]
    if is_missing("pybind11"):
        return [
            Step(
                "build",
                "build",
                needed=True,
                reason="this Python has no pybind11 and wheels/ neither",
            )
        ]
    configure = (str(cmake), "-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja")
    configure += (f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DPython_EXECUTABLE={sys.executable}")
    configure += ("-DRLHF_KERNELS_CUDA=ON", f"-DCMAKE_CUDA_ARCHITECTURES={arches}")
    python = sys.executable
    limit = 65 if (os.cpu_count() or 1) >= 8 else 300
    resources = (python, "-m", "rlhf_kernels.bench.resources", str(BUILD))
    return [
        Step("build", "configure", configure, 20, needed=True),
        Step(
            "build",
            "compile",
            (str(cmake), "--build", str(BUILD), "--target", "_C"),
            limit,
            needed=True,
        ),
        Step("build", "install", (python, "-m", "tests.gpu_check", "--install"), 5, needed=True),
        Step("build", "resources", resources, 10, expect=r"\d+ kernels, .*"),
    ]


def test_steps(out: Path) -> list[Step]:
    """Return the steps of the group `test`."""
    if is_missing("pytest"):
        return [Step("test", "tests", reason="this Python has no pytest and wheels/ neither")]
    # Warnings of torch versions that nobody has seen yet are no failures here.
    command = (sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-o", "filterwarnings=default")
    command += ("-p", "tests.at_once")  # a run that is stopped has no summary
    workers = () if is_missing("xdist") else ("-n", "4")
    others = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if "pytest.mark.cuda" in path.read_text(encoding="utf-8")
    ]
    missing = [name for name in TOOLKIT if is_missing(name)]
    reason = f"this Python lacks {', '.join(missing)}" if missing else ""
    junit = (f"--junitxml={out / 'tests.xml'}",)
    return [
        Step("test", "tests", (*command, *workers, *junit, "tests/cuda"), 60, r"\d+ passed.*"),
        Step("test", "toolkit", (*command, *workers, *others), 85, r"\d+ passed.*", reason=reason),
    ]


def sanitize_steps() -> list[Step]:
    """Return the steps of the group `sanitize`."""
    tool = find_cuda_tool("compute-sanitizer")
    if tool is None:
        reason = "compute-sanitizer is neither on PATH nor in the CUDA toolkit's folder"
        return [Step("sanitize", "memcheck, racecheck", reason=reason)]
    script = (sys.executable, str(ROOT / "tests" / "cuda" / "guarded.py"))
    # Only kernels of namespace rlhf are watched; the first step shows that they are.
    check = (tool, "--kernel-name", "kns=rlhf", "--error-exitcode", "9", "--tool")
    clean = r"ERROR SUMMARY: 0 errors"
    return [
        Step("sanitize", "memcheck sees a planted fault", (*check, "memcheck", *script, "--fault"),
             20, r"Invalid __global__ read", fails=True),
        Step("sanitize", "memcheck", (*check, "memcheck", *script), 50, clean),
        Step("sanitize", "racecheck", (*check, "racecheck", *script, "--quick"), 30,
             r"RACECHECK SUMMARY: 0 hazards.*"),
    ]  # fmt: skip


def bench_steps(out: Path, long: bool) -> list[Step]:
    """Return the steps of the group `bench`; short calls first, or others take all the time."""
    bench = (sys.executable, "-m", "rlhf_kernels.bench")
    table = (sys.executable, "-m", "rlhf_kernels.bench.table", *RESULTS[:1], "--write", RESULTS[1])

    def measure(ops: Sequence[str], budget: int, name: str) -> tuple[str, ...]:
        every = ("--dtype", "float32", "bfloat16", "float16")
        wish = every if long else ("--budget", str(budget))
        return (*bench, *ops, "--device", "cuda", "--append", *wish, "--json", str(out / name))

    return [
        Step("bench", "benchmark, short calls", measure(SHORT, 25, "bench-short.json"), 50),
        Step("bench", "benchmark", measure(() if long else LOGITS, 30, "bench.json"), 75),
        Step("bench", "table", table, 10),
    ]


def make_steps(groups: Sequence[str], out: Path, arches: str, long: bool) -> list[Step]:
    """Return the steps of the chosen groups, in order."""
    makers: dict[str, Callable[[], list[Step]]] = {
        "build": lambda: build_steps(arches),
        "test": lambda: test_steps(out),
        "sanitize": sanitize_steps,
        "bench": lambda: bench_steps(out, long),
    }
    return [step for group in GROUPS if group in groups for step in makers[group]()]

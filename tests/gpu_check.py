"""Build, test, sanitize and measure the CUDA kernels on a machine with a GPU: `make gpu-check`.

    python3 -m tests.gpu_check [--only build,test,sanitize,bench] [--long] [--out DIR] [--arch LIST]

Needs no network: this Python's own torch >= 2.11 with CUDA, pybind11, cmake, ninja, pytest, and
nvcc; packages that lie in wheels/ are added if they are missing. Each step has a limit, together
eight minutes; one that fails does not stop the next. Logs, the summary and copies of the results
go to DIR (default: build/gpu-check).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.gpu_machine import ROOT, add_wheels, describe, make_environment, probe, refuse
from tests.gpu_steps import BUILD, GROUPS, RESULTS, Step, choose_arches, make_steps

LONGER = 5
NAMED = 5  # failed tests in a line of the summary; all are in the step's log


@dataclass(frozen=True)
class Outcome:
    """A line of the summary."""

    name: str
    result: str
    seconds: float
    passed: bool


def install() -> None:
    """Put the built module into the package, and take away a module of another build."""
    (built,) = BUILD.glob("_C*.so")
    target = ROOT / "rlhf_kernels" / built.name
    target.unlink(missing_ok=True)  # a running process keeps the old file mapped
    shutil.copy2(built, target)


def run_step(step: Step, environment: dict[str, str], out: Path, longer: int = 1) -> Outcome:
    """Run one command with its limit; its output goes to a log."""
    if step.reason:
        return Outcome(step.name, f"skipped: {step.reason}", 0.0, not step.needed)
    began = time.monotonic()
    log = out / f"{step.name.replace(' ', '-')}.log"
    with log.open("w", encoding="utf-8") as sink:
        child = subprocess.Popen(
            step.command,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=ROOT,
            start_new_session=True,
        )
        try:
            code: int | None = child.wait(step.limit * longer)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            code = None
    result, passed = judge(step, code, log.read_text(encoding="utf-8", errors="replace"), longer)
    return Outcome(step.name, result, time.monotonic() - began, passed)


def judge(step: Step, code: int | None, text: str, longer: int) -> tuple[str, bool]:
    """Return the summary's words for an exit status and a log, and whether the step passed."""
    shown = re.findall(step.expect, text) if step.expect else []
    if code is None:
        return f"stopped at its limit of {step.limit * longer} s" + name_failures(text), False
    if (code != 0) != step.fails:
        found = f": {shown[-1]}" if shown else ""
        return f"failed with status {code}{found}{name_failures(text)}", False
    if step.expect and not shown:
        return f"its log does not say {step.expect!r}", False
    return shown[-1] if shown else "passed", True


def name_failures(text: str) -> str:
    """Return the failed tests that a log of pytest names, as the rest of a sentence."""
    names = list(dict.fromkeys(re.findall(r"^FAILED (.+?)(?: - .*)?$", text, re.MULTILINE)))
    more = [f"{len(names) - NAMED} more"] if len(names) > NAMED else []
    return "; failed: " + ", ".join(names[:NAMED] + more) if names else ""


def show_tail(log: Path) -> None:
    """Print the end of a failed step's log."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    print("\n".join(f"    {line}" for line in lines[-25:]), flush=True)


def run_steps(
    steps: Sequence[Step], environment: dict[str, str], out: Path, longer: int
) -> list[Outcome]:
    """Run the steps, print each as it ends and the end of the logs of those that failed.

    After one that is needed and failed, the rest would test an older module, or none.
    """
    outcomes: list[Outcome] = []
    broken = ""
    for step in steps:
        if broken:
            outcomes.append(Outcome(step.name, f"not run, since {broken} failed", 0.0, False))
            continue
        outcomes.append(run_step(step, environment, out, longer))
        broken = step.name if step.needed and not outcomes[-1].passed else ""
        print(f"== {step.name}: {outcomes[-1].result} ({outcomes[-1].seconds:.0f} s)", flush=True)
        if not outcomes[-1].passed:
            show_tail(out / f"{step.name.replace(' ', '-')}.log")
    return outcomes


def summarize(outcomes: Sequence[Outcome]) -> str:
    """Return the table of steps, results and seconds."""
    width = max(len(outcome.name) for outcome in outcomes)
    lines = [
        f"{'ok  ' if o.passed else 'FAIL'} {o.name:{width}s} {o.seconds:6.0f} s  {o.result}"
        for o in outcomes
    ]
    total = sum(outcome.seconds for outcome in outcomes)
    return "\n".join([*lines, f"{total:.0f} s in all"])


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="make gpu-check", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--only", default=",".join(GROUPS), help=f"of {','.join(GROUPS)}")
    parser.add_argument(
        "--long", action="store_true", help="all sizes and compilers; longer limits"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-check", metavar="DIR")
    parser.add_argument(
        "--arch", help="CMake's list, such as '80-real;90a-real'; default: the GPU's"
    )
    parser.add_argument("--install", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.groups = [group for group in options.only.split(",") if group]
    if wrong := sorted(set(options.groups) - set(GROUPS)):
        parser.error(f"--only knows {', '.join(GROUPS)}, not {', '.join(wrong)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; 1 if anything failed."""
    options = read_arguments(arguments)
    if options.install:
        install()
        return 0
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    problems = add_wheels(ROOT / "wheels")
    environment = make_environment()
    found = probe(environment)
    report = "\n".join([describe(found), *problems])
    print(report, flush=True)
    (out / "environment.txt").write_text(report + "\n", encoding="utf-8")
    if sentence := refuse(found, options.groups):
        print(f"gpu-check: {sentence}.", file=sys.stderr)
        return 1
    steps = make_steps(options.groups, out, options.arch or choose_arches(found), options.long)
    outcomes = run_steps(steps, environment, out, LONGER if options.long else 1)
    for name in RESULTS:
        if "bench" in options.groups and (ROOT / name).is_file():
            shutil.copy2(ROOT / name, out)
    summary = summarize(outcomes)
    (out / "summary.txt").write_text(summary + "\n", encoding="utf-8")
    print("\n" + summary)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())

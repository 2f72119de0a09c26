"""Run the miniature: every variant of specs/miniature.yaml, then one report over all of them.

    python -m specs.miniature [--seeds 1 2 3] [--sweep 1] [--jobs 2] [key=value ...]

Each run is a process of its own with one thread; runs of a seed share every stage that is the same.
Killed at any moment and started again it goes on where it was. One seed without sweeps:
`--seeds 1 --sweep`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from specs.miniature.variants import Job, jobs

ROOT = Path(__file__).resolve().parents[2]
SPEC = "specs/miniature.yaml"


@dataclass
class Running:
    """A job under way."""

    job: Job
    process: subprocess.Popen[bytes]
    began: float
    log: Path


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m specs.miniature",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", nargs="*", type=int, default=[1, 2, 3])
    parser.add_argument("--sweep", nargs="*", type=int, default=[1], help="seeds that are swept")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--out", type=Path, default=Path("runs/miniature"))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of every run")
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str]) -> int:
    """Run what the command line asks for; return the exit code of the first run that failed."""
    args = parse(argv)
    os.chdir(ROOT)
    todo = list(jobs(args.seeds, [s for s in args.sweep if s in args.seeds], args.out))
    began = time.monotonic()
    running: list[Running] = []
    try:
        failed = run_all(todo, args.out, args.overrides, args.jobs, running)
    finally:
        stop(running)
    if failed is not None:
        return failed
    print(f"all runs: {(time.monotonic() - began) / 60:.1f} min", flush=True)
    return report(todo, args.out)


def run_all(
    todo: list[Job], out: Path, more: Sequence[str], most: int, running: list[Running]
) -> int | None:
    """Run jobs, each after those it needs, `most` at a time; return the code of a failure.

    `running` holds those under way, for whoever must stop them.
    """
    waiting, done = list(todo), set[tuple[int, str]]()
    while waiting or running:
        free = (j for j in waiting if all((j.seed, n) in done for n in j.needs))
        while len(running) < most and (job := next(free, None)) is not None:
            running.append(start(job, out, more))
        waiting = [j for j in waiting if j not in [r.job for r in running]]
        time.sleep(0.2)
        for one in [r for r in running if r.process.poll() is not None]:
            running.remove(one)
            if one.process.returncode:
                print(f"{one.log}:\n{one.log.read_text()[-2000:]}", file=sys.stderr)
                return int(one.process.returncode)
            done.add((one.job.seed, one.job.key))
            seconds = time.monotonic() - one.began
            place = f"[{len(done)}/{len(todo)}] seed {one.job.seed} {one.job.key}"
            print(f"{place}: {seconds:.0f} s", flush=True)
    return None


def start(job: Job, out: Path, more: Sequence[str]) -> Running:
    """Start one run, its output in a file."""
    log = out / "logs" / f"seed{job.seed}-{job.key.replace(':', '-')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "toolkit", "run", SPEC, *job.arguments(out, more)]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT)
    return Running(job, process, time.monotonic(), log)


def stop(running: list[Running]) -> None:
    """Interrupt the others; started again they go on from their checkpoints."""
    for one in running:
        one.process.terminate()
    for one in running:
        one.process.wait()


def report(todo: list[Job], out: Path) -> int:
    """Join all runs into one page."""
    folders = dict.fromkeys(str(out / f"seed{job.seed}" / job.name) for job in todo)
    command = [sys.executable, "-m", "toolkit", "report", *folders]
    return subprocess.run([*command, "--out", str(out / "report.html")], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Run ours, TRL and a plain PyTorch loop in turn on the same tasks; print one table.

    python -m specs.compare --trl build/trl-venv/bin/python [--quick] [--task sort] [--seeds 1 2 3]
    python -m specs.compare --trl python3 --device cuda [--task v125m] [--precision bf16]

Each stage of each competitor is a process of its own. `--quick` shortens every stage to see that it
all works; its figures mean nothing and are not recorded.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from specs.compare.processes import Bench
from specs.compare.report import print_settings, print_table, record
from specs.compare.runs import FIXED, TASKS, Row, everyone, run_fixed, run_sort

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path("docs/results/trl.csv")
LIMIT = 90.0  # seconds of a process on a GPU


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m specs.compare", description=__doc__)
    parser.add_argument(
        "--trl", default="build/trl-venv/bin/python", help="python of the environment that has TRL"
    )
    parser.add_argument("--task", nargs="+", choices=["sort", *FIXED], help="default: the device's")
    parser.add_argument("--device", choices=list(TASKS), default="cpu")
    parser.add_argument(
        "--precision", nargs="+", choices=["fp32", "bf16"],
        help="of every system; default: both on a GPU, on a CPU fp32 and bf16 for ours",
    )  # fmt: skip
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="of a process")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--kl", nargs="+", type=float, default=[0.3, 0.02])
    parser.add_argument("--repeats", type=int, help="of the tasks for speed; default: 3, GPU 1")
    parser.add_argument("--systems", nargs="+", default=["ours", "trl", "plain"])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=Path("build/compare"))
    parser.add_argument("--quick", action="store_true", help="few steps; nothing is recorded")
    args = parser.parse_args(argv)
    args.task = args.task or list(TASKS[args.device])
    if args.device == "cuda":
        if "sort" in args.task:
            parser.error("--task sort is measured on a CPU: leave out --device cuda")
        args.limit = args.limit or LIMIT
        args.precision = args.precision or ["fp32", "bf16"]
    args.repeats = args.repeats or (1 if args.device == "cuda" else 3)
    return args


def main(argv: list[str]) -> int:
    """Run what the command line asks for."""
    args = parse(argv)
    os.chdir(ROOT)
    pythons = {"trl": args.trl} if "trl" in args.systems else {}
    bench = Bench(args.out, args.threads, pythons, device=args.device, limit=args.limit)
    print(bench.describe())
    rows: list[Row] = []
    for part in parts(bench, args):
        rows += part
        if not args.quick:
            record(RESULTS, part, bench)
    print_settings(bench)
    print_table(rows)
    print("quick: nothing is recorded" if args.quick else f"recorded in {RESULTS}")
    return 0


def parts(bench: Bench, args: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield the rows of each task and seed as they come."""
    short = {"quick": args.quick}
    if "sort" in args.task:
        for seed in args.seeds[: 1 if args.quick else None]:
            for precision, systems in everyone(args.systems, args.precision):
                yield run_sort(bench, seed, args.kl, systems, precision=precision, **short)
    for task in [name for name in args.task if name in FIXED]:
        for repeat in range(1, 2 if args.quick else args.repeats + 1):
            yield run_fixed(bench, task, repeat, args.systems, precisions=args.precision, **short)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

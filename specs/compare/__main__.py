"""Run ours, TRL and a plain PyTorch loop in turn on the same tasks; print one table.

    python -m specs.compare --trl build/trl-venv/bin/python [--quick] [--task sort] [--seeds 1 2 3]

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
from specs.compare.runs import FIXED, Row, run_fixed, run_sort

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path("docs/results/trl.csv")


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m specs.compare", description=__doc__)
    parser.add_argument("--trl", required=True, help="python of the environment that has TRL")
    parser.add_argument("--task", nargs="+", choices=["sort", *FIXED], default=["sort", *FIXED])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--kl", nargs="+", type=float, default=[0.3, 0.02])
    parser.add_argument("--repeats", type=int, default=3, help="of the tasks for speed")
    parser.add_argument("--systems", nargs="+", default=["ours", "trl", "plain"])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=Path("build/compare"))
    parser.add_argument("--quick", action="store_true", help="few steps; nothing is recorded")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Run what the command line asks for."""
    args = parse(argv)
    os.chdir(ROOT)
    bench = Bench(args.out, args.threads, {"trl": args.trl})
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
            yield run_sort(bench, seed, args.kl, args.systems, **short)
    for task in [name for name in args.task if name in FIXED]:
        for repeat in range(1, 2 if args.quick else args.repeats + 1):
            yield run_fixed(bench, task, repeat, args.systems, **short)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

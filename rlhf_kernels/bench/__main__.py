"""Command line of the benchmarks."""

from __future__ import annotations

import argparse
import difflib
import gc
import importlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

import torch

import rlhf_kernels as rk
from rlhf_kernels.bench.cases import Case, Settings
from rlhf_kernels.bench.device_clock import DeviceClock
from rlhf_kernels.bench.device_goals import find_goals
from rlhf_kernels.bench.device_harness import measure_on_device
from rlhf_kernels.bench.device_machine import choose_device, describe_device, read_clocks
from rlhf_kernels.bench.goals import judge_all, print_goals, to_records
from rlhf_kernels.bench.harness import measure
from rlhf_kernels.bench.machine import CLOCKS, Machine, describe_machine
from rlhf_kernels.bench.plot import draw_plot
from rlhf_kernels.bench.results import RESULTS, find_results
from rlhf_kernels.bench.rows import Row, append_csv, print_case, to_json

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DTYPES |= {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

#: The ops with goals first, so that an interrupted run has shown the most important rows.
FIRST = ("gather_logprobs", "ppo_loss_from_logits", "cross_entropy", "exact_kl")

EXPLANATION = """\
Times are medians of interleaved runs. `x ours` is a provider's time divided by ours, formed run by
run: above 1 ours is faster. GB/s is the bytes the op must move divided by the time; `roof` is the
share of the bandwidth that this process reaches with plain reads and copies, empty when the data
fit in the caches. MiB is what a call holds at its highest beyond its inputs. Errors are against
float64: absolute for results, relative to the row's largest entry for gradients. On a GPU times
are the device's own, inputs rotate past its cache, and MiB is what torch allocated."""

Measure = Callable[[Case, Settings, Machine], list[Row]]


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m rlhf_kernels.bench", description=__doc__, epilog=EXPLANATION
    )
    parser.add_argument("ops", nargs="*", metavar="op", help=f"any of: {', '.join(find_ops())}")
    parser.add_argument("--json", metavar="FILE", help="write one document; - for standard output")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where it runs")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="append one line per row")
    parser.add_argument("--append", action="store_true", help=f"the same, to {RESULTS}")
    parser.add_argument(
        "--budget", type=float, metavar="SECONDS", help="after these nothing is compiled any more"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the rows (png, svg, pdf)")
    parser.add_argument("--quick", action="store_true", help="smaller inputs, no torch.compile")
    parser.add_argument("--dtype", type=read_dtype, nargs="+", default=[], metavar="DTYPE")
    parser.add_argument("--shape", type=read_shape, metavar="NxV", help="rows x columns")
    parser.add_argument("--providers", nargs="+", default=[], metavar="NAME", help="names or globs")
    parser.add_argument("--threads", type=int, metavar="n", help="instead of torch's own choice")
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: CPU time with one thread, for a machine that other programs use",
    )
    return parser


def find_ops() -> list[str]:
    """Return the registered ops, those with goals first."""
    known = rk._registry.OPS
    return [op for op in FIRST if op in known] + sorted(op for op in known if op not in FIRST)


def read_dtype(text: str) -> torch.dtype:
    """Return the dtype of a name."""
    if text not in DTYPES:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(DTYPES)}")
    return DTYPES[text]


def read_shape(text: str) -> tuple[int, int]:
    """Return rows and columns of "512x50257"."""
    rows, _, columns = text.partition("x")
    if not (rows.isdigit() and columns.isdigit() and int(rows) and int(columns)):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 512x50257")
    return int(rows), int(columns)


def check_ops(parser: argparse.ArgumentParser, ops: Sequence[str]) -> list[str]:
    """Return the ops to run; an unknown name ends the program with the nearest known one."""
    known = find_ops()
    for op in ops:
        if op not in known:
            near = difflib.get_close_matches(op, known, n=1)
            hint = f": did you mean {near[0]}?" if near else f", only {', '.join(known)}"
            parser.error(f"there is no op {op!r}{hint}")
    return [op for op in known if not ops or op in ops]


def run_ops(
    ops: Sequence[str],
    settings: Settings,
    machine: Machine,
    out: TextIO,
    measure: Measure = measure,
    files: Sequence[Path] = (),
) -> list[Row]:
    """Measure and print every case of the ops; append each to the CSV files at once."""
    rows: list[Row] = []
    for op in ops:
        module = importlib.import_module(f"rlhf_kernels.bench.bench_{op}")
        gc.freeze()  # what lives now stays: each later collection then looks at little
        for case in module.make_cases(settings):
            found = measure(case, settings, machine)
            print_case(found, out)
            rows += found
            for path in files:
                append_csv(path, found, machine)
            del case
            gc.collect()  # the inputs of one case must not count as memory during the next
    return rows


def print_machine(machine: Machine, out: TextIO) -> None:
    """Print where the numbers come from."""
    if machine.cuda:
        print_gpu(machine, out)
        return
    threads = "1 thread" if machine.threads == 1 else f"{machine.threads} threads"
    print(f"{machine.device}, {threads}, {machine.isa}, torch {machine.torch}", file=out)
    print(
        f"bandwidth of this process: {machine.read_gb_s:.1f} GB/s read,"
        f" {machine.update_gb_s:.1f} GB/s read + written; commit {machine.commit or 'unknown'}",
        file=out,
    )
    if machine.load > 0.5:
        print(
            f"load {machine.load:.1f}: other programs are running. Threads that wait for each other"
            " then lose a time slice, which distorts the times of short calls.",
            file=out,
        )


def print_gpu(machine: Machine, out: TextIO) -> None:
    """Print where the numbers of a GPU come from."""
    power = "unknown" if machine.power_limit_w is None else f"{machine.power_limit_w:.0f} W"
    print(
        f"{machine.device} ({machine.isa}), driver {machine.driver or 'unknown'},"
        f" CUDA {machine.cuda}, torch {machine.torch}, power limit {power},"
        f" L2 {machine.l2_mib:.0f} MiB",
        file=out,
    )
    read = "not measured" if machine.read_gb_s is None else f"{machine.read_gb_s:.0f} GB/s"
    print(
        f"rates of this process: read {read}, copy {machine.update_gb_s:.0f} GB/s read + written,"
        f" bfloat16 product {machine.matmul_tflops:.0f} TFLOP/s; commit"
        f" {machine.commit or 'unknown'}",
        file=out,
    )


def start(settings: Settings) -> tuple[Machine, Measure]:
    """Return the machine and the way to measure on it."""
    if settings.device == "cpu":
        return describe_machine(CLOCKS[settings.clock]), measure
    clock = DeviceClock()

    def on_device(case: Case, settings: Settings, machine: Machine) -> list[Row]:
        return measure_on_device(case, settings, machine, clock, read_clocks)

    return describe_device(clock), on_device


def read_settings(options: argparse.Namespace, device: str) -> Settings:
    """Return what the options ask for."""
    return Settings(
        dtypes=tuple(options.dtype),
        shape=options.shape,
        providers=tuple(options.providers),
        quick=options.quick,
        seconds=0.3 if options.quick else 3.0,
        clock=options.clock,
        device=device,
        deadline=None if options.budget is None else time.perf_counter() + options.budget,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks that the command line asks for."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    ops = check_ops(parser, options.ops)
    if options.clock == "cpu" and options.device == "cuda":
        parser.error("--clock cpu counts the time of a CPU thread: leave out --device cuda")
    if options.clock == "cpu" and options.threads not in (None, 1):
        parser.error("--clock cpu counts the time of one thread: leave out --threads, or give 1")
    files = [options.csv] if options.csv else []
    try:
        device, reason = choose_device("cpu" if options.clock == "cpu" else options.device)
        files += [find_results()] if options.append else []
    except ValueError as error:
        parser.error(str(error))
    threads = 1 if options.clock == "cpu" else options.threads
    if threads:
        torch.set_num_threads(threads)
    settings = read_settings(options, device)
    out = sys.stderr if options.json == "-" else sys.stdout
    began = time.perf_counter()
    print(reason, file=out)
    machine, how = start(settings)
    print_machine(machine, out)
    rows = run_ops(ops, settings, machine, out, how, files)
    goals = find_goals(machine)
    verdicts = judge_all(rows, goals)
    print_goals(verdicts, out)
    print(f"\n{EXPLANATION}\n{time.perf_counter() - began:.0f} s in all", file=out)
    if options.plot:
        draw_plot(options.plot, rows, machine)
    if options.json == "-":
        sys.stdout.write(to_json(rows, to_records(verdicts), machine))
    elif options.json:
        Path(options.json).write_text(to_json(rows, to_records(verdicts), machine), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

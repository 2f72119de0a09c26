"""`explain`: what a stage's result was made from, why it ran, and what came out."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from toolkit.pipeline.compare import finished_stages, why_it_ran
from toolkit.pipeline.sizes import size_text
from toolkit.pipeline.store import Done
from toolkit.spec.errors import ToolkitError
from toolkit.spec.nearest import did_you_mean

DESCRIPTION = """Say of one finished stage what its result is a function of (settings, files, the
results it read), why and when it ran, and what it reports. `plan` lists the stages of a spec; a
stage of a round has its number, as ppo.1, and ppo alone means the first."""

EXAMPLES = """  python -m toolkit explain runs/quickstart ppo.1
  python -m toolkit explain runs/quickstart reward       the same as reward.1"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `explain`."""
    parser.add_argument("run", type=Path, help="the run folder")
    parser.add_argument("stage", help="a stage of it, such as ppo.1")


def run(args: argparse.Namespace) -> int:
    """Print the account."""
    stages = finished_stages(args.run)
    name = args.stage if args.stage in stages else f"{args.stage}.1"
    if name not in stages:
        hint = did_you_mean(args.stage, stages) if stages else "none has finished yet"
        raise ToolkitError(f"{args.run} has no finished stage {args.stage}; {hint}")
    print("\n".join(_account(args.run, name, stages[name])))
    return 0


def _account(folder: Path, name: str, done: Done) -> list[str]:
    parts = done.parts
    memory = f", peak memory {size_text(done.peak_memory)}" if done.peak_memory else ""
    if done.device_memory:
        memory += f", on the GPU {size_text(done.device_memory)}"
    lines = [f"{name}  {done.key}", f"finished {done.finished}, {done.seconds:.1f} s{memory}"]
    lines += [f"{time}  {why}" for time, why in why_it_ran(folder, name, done.key)]
    settings = {"stage version": parts["version"], "seed": parts["seed"], **parts["hardware"]}
    sections = {
        "made from": settings | parts["spec"],
        "files": parts["files"],
        "results it read": parts["inputs"],
        "reports": done.summary,
    }
    for title, values in sections.items():
        lines += ["", title] if values else []
        lines += [f"  {key}: {_text(value)}" for key, value in values.items()]
    lines += [f"warning: {text}" for text in done.warnings]
    return [*lines, f"gate: {done.gate}"] if done.gate else lines


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)

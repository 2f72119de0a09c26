"""`plan`: what `run` would do to each stage, why, and how much work it is; nothing is run."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from toolkit.cli.parser import add_json_argument, add_spec_arguments
from toolkit.pipeline.plan import Plan, make_plan
from toolkit.spec.load import load_spec

DESCRIPTION = """Say of each stage whether it runs, goes on or is reused, WHY, and how much work it
is. Nothing is run and no model is loaded. The work is counted from the records; below the table
stands what the rules dropped and how much room on disk the models take."""

EXAMPLES = """  python -m toolkit plan specs/quickstart.yaml
  python -m toolkit plan my.yaml ppo.kl.coef=0.05
  python -m toolkit plan my.yaml --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `plan`."""
    add_spec_arguments(parser)
    parser.add_argument("--until", metavar="STAGE", help="plan up to this stage, such as reward")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print the plan."""
    plan = make_plan(load_spec(args.spec, args.overrides), args.until)
    print(json.dumps(document(plan), indent=2) if args.json else text(plan))
    return 0


def text(plan: Plan) -> str:
    """Return the plan as a table and notes."""
    rows = [
        (s.decision.node.name, f"{s.decision.action}: {s.decision.why}", s.work)
        for s in plan.stages
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{n:<{widths[0]}}  {f:<{widths[1]}}  {w}".rstrip() for n, f, w in rows]
    return "\n".join([*lines, "", f"run folder: {plan.folder}", plan.machine.why, *plan.notes])


def document(plan: Plan) -> dict[str, Any]:
    """Return the plan as one JSON-able document."""
    return {
        "out": str(plan.folder),
        "machine": plan.machine.why,
        "stages": [
            {
                "name": stage.decision.node.name,
                "kind": stage.decision.node.kind,
                "action": stage.decision.action,
                "why": stage.decision.why,
                "work": stage.work,
                "steps": stage.steps,
                "key": stage.decision.key,
            }
            for stage in plan.stages
        ],
        "counts": plan.counts,
        "disk": None if plan.disk is None else asdict(plan.disk),
        "notes": plan.notes,
    }

"""`details`: the thirty implementation details, each with its value in a spec and where it acts."""

from __future__ import annotations

import argparse
import json
from typing import Any

from toolkit.cli.parser import add_json_argument, add_spec_arguments
from toolkit.spec.details import Detail, values
from toolkit.spec.details_rankings import details_of
from toolkit.spec.load import load_spec
from toolkit.spec.schema import Spec

DESCRIPTION = """Print the thirty implementation details that decide whether RLHF works: what each
is in this spec, and the functions that do it. docs/PAPER.md names the test of each. They are
PPO's; with dpo or kto each is what takes its place there, or says that it is not used."""

EXAMPLES = """  python -m toolkit details my.yaml
  python -m toolkit details my.yaml ppo.kl.controller=adaptive ppo.kl.target=6
  python -m toolkit details my.yaml ppo=null 'dpo={beta: 0.3}'
  python -m toolkit details my.yaml --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `details`."""
    add_spec_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print the details."""
    spec = load_spec(args.spec, args.overrides, files=False).spec
    print(json.dumps(document(spec), indent=2) if args.json else text(spec))
    return 0


def text(spec: Spec) -> str:
    """Return the details as lines, under their headings."""
    lines: list[str] = []
    heading = ""
    for detail in details_of(spec):
        if detail.part != heading:
            heading = detail.part
            lines += [*([""] if lines else []), heading]
        lines += _lines(detail, spec)
    return "\n".join(lines)


def _lines(detail: Detail, spec: Spec) -> list[str]:
    named = [f"{name} = {value}" if name else value for name, value in values(detail, spec)]
    lines = [f"{detail.number:4}  {detail.text}", f"      {', '.join(named)}"]
    return [*lines, *([f"      at {', '.join(detail.where)}"] if detail.where else [])]


def document(spec: Spec) -> list[dict[str, Any]]:
    """Return the details as one JSON-able document."""
    return [
        {
            "number": detail.number,
            "part": detail.part,
            "text": detail.text,
            "values": {name or "value": value for name, value in values(detail, spec)},
            "where": list(detail.where),
        }
        for detail in details_of(spec)
    ]

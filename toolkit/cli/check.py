"""`check`: every problem of a spec and of its data; nothing is run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from toolkit.cli.parser import add_json_argument, add_spec_arguments
from toolkit.data.scan import Scan, scan
from toolkit.spec.errors import DataError, Problem, SpecError
from toolkit.spec.load import Examined, examine_spec

DESCRIPTION = """Report every problem of a spec and of the files it names, all at once, each
with its file, line, column and fix. Nothing is run and no model is loaded.

Data files are scanned once; the result is kept by the file's digest."""

EXAMPLES = """  python -m toolkit check my.yaml
  python -m toolkit check my.yaml ppo.kl.coef=0.05
  python -m toolkit check my.yaml --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `check`."""
    add_spec_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Check, print, and return 0, 2 (spec) or 3 (data)."""
    examined = examine_spec(args.spec, args.overrides)
    data = _scan(examined)
    if args.json:
        print(json.dumps(_document(args.spec, examined.problems, data), indent=2))
    else:
        _print(args.spec, examined.problems, data)
    if examined.problems:
        return SpecError.exit_code
    return DataError.exit_code if data.problems else 0


def _scan(examined: Examined) -> Scan:
    """Scan the data, unless what names it is itself wrong."""
    roots = {problem.path.split(".")[0] for problem in examined.problems}
    if roots & {"", "data", "text", "models", "extends"}:
        return Scan()
    return scan(examined.loaded.spec)


def _print(spec: str, problems: Sequence[Problem], data: Scan) -> None:
    for problem in (*problems, *data.problems):
        print(problem, file=sys.stderr)
    for warning in data.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    total = len(problems) + len(data.problems)
    if total:
        print(f"{total} problem{'s' if total > 1 else ''}; nothing was run", file=sys.stderr)
        return
    print(f"{spec}: no problems")
    for kind, counts in data.counts.items():
        numbers = ", ".join(f"{name} {number}" for name, number in counts.items() if number)
        print(f"  {kind:<16}{numbers}")


def _document(spec: str, problems: Sequence[Problem], data: Scan) -> dict[str, Any]:
    found = [("spec", problem) for problem in problems]
    found += [("data", problem) for problem in data.problems]
    return {
        "spec": spec,
        "ok": not found,
        "problems": [
            {
                "kind": kind,
                "file": problem.file,
                "line": problem.line or None,
                "col": problem.col or None,
                "path": problem.path or None,
                "message": problem.message,
            }
            for kind, problem in found
        ],
        "warnings": data.warnings,
        "counts": data.counts,
    }

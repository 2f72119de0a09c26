"""`check`: every problem of a spec and of its data; nothing is run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from toolkit.cli.parser import add_json_argument, add_spec_arguments
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
    counts, data_problems = _scan(examined)
    if args.json:
        print(json.dumps(_document(args.spec, examined.problems, data_problems, counts), indent=2))
    else:
        _print(args.spec, examined.problems, data_problems, counts)
    if examined.problems:
        return SpecError.exit_code
    return DataError.exit_code if data_problems else 0


def _scan(examined: Examined) -> tuple[Mapping[str, Any], Sequence[Problem]]:
    """Scan the data, unless what names it is itself wrong."""
    roots = {problem.path.split(".")[0] for problem in examined.problems}
    if roots & {"", "data", "text", "extends"}:
        return {}, ()
    from toolkit.data.scan import scan

    result = scan(examined.loaded.spec)
    return result.counts, result.problems


def _print(
    spec: str,
    problems: Sequence[Problem],
    data_problems: Sequence[Problem],
    counts: Mapping[str, Any],
) -> None:
    for problem in (*problems, *data_problems):
        print(problem, file=sys.stderr)
    total = len(problems) + len(data_problems)
    if total:
        print(f"{total} problem{'s' if total > 1 else ''}; nothing was run", file=sys.stderr)
        return
    print(f"{spec}: no problems")
    for line in _count_lines(counts):
        print(line)


def _count_lines(counts: Mapping[str, Any]) -> list[str]:
    """Return a line per data file: what was read, and how many each rule dropped."""
    lines = []
    for name, numbers in counts.items():
        if isinstance(numbers, Mapping):
            numbers = ", ".join(f"{rule} {number}" for rule, number in numbers.items() if number)
        lines.append(f"  {name:<16}{numbers}")
    return lines


def _document(
    spec: str,
    problems: Sequence[Problem],
    data_problems: Sequence[Problem],
    counts: Mapping[str, Any],
) -> dict[str, Any]:
    found = [("spec", problem) for problem in problems]
    found += [("data", problem) for problem in data_problems]
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
        "counts": dict(counts),
    }

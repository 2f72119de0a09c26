"""`show`: the resolved spec, each value with its origin; or what differs from the preset."""

from __future__ import annotations

import argparse
import sys

from toolkit.cli.parser import add_spec_arguments
from toolkit.spec.load import Loaded, load_spec
from toolkit.spec.resolved import deviations, resolved_yaml

DESCRIPTION = """Print every value of a spec, defaults and presets included, and where each
came from. The output is itself a spec that loads alike."""

EXAMPLES = """  python -m toolkit show my.yaml
  python -m toolkit show my.yaml ppo.kl.coef=0.05 --deviations"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `show`."""
    add_spec_arguments(parser)
    parser.add_argument(
        "--deviations",
        action="store_true",
        help="only what differs from what the spec extends (from the defaults without `extends`)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the spec."""
    loaded = load_spec(args.spec, args.overrides, files=False)
    if args.deviations:
        print(_deviation_table(loaded))
    else:
        sys.stdout.write(resolved_yaml(loaded))
    return 0


def _deviation_table(loaded: Loaded) -> str:
    rows = deviations(loaded)
    if not rows:
        return "no deviations"
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        f"{path:<{widths[0]}}  {old:>{widths[1]}} -> {new:<{widths[2]}}  {origin}"
        for path, old, new, origin in rows
    )

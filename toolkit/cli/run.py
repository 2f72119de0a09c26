"""`run`: every stage of a spec; continues a run that was stopped or killed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from toolkit.cli.parser import add_spec_arguments

DESCRIPTION = """Run every stage of a spec in order. A stage whose inputs have not changed is
reused; one that was stopped or killed goes on from its last checkpoint and ends in the same bits.
Everything is written below `out`, by default runs/NAME.

Ctrl-C saves a checkpoint after the present step and stops; in a stage's last step it stops when
that stage is done. Ctrl-C again stops at once. Every way to stop is safe: type the same command
again to go on."""

EXAMPLES = """  python -m toolkit run specs/quickstart.yaml
  python -m toolkit run my.yaml --until reward        to look at the reward model first
  python -m toolkit run my.yaml ppo.kl.coef=0.05      only what depends on it runs again"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `run`."""
    add_spec_arguments(parser)
    parser.add_argument("--until", metavar="STAGE", help="stop after this stage, such as reward")
    parser.add_argument(
        "--from-scratch", action="store_true", help="run every stage again, whatever is there"
    )


def run(args: argparse.Namespace) -> int:
    """Check spec and data, run, print where the results are."""
    from toolkit.cli.display import make_display
    from toolkit.data.scan import scan
    from toolkit.pipeline.runner import run as run_spec
    from toolkit.spec.errors import DataError
    from toolkit.spec.load import load_spec

    loaded = load_spec(args.spec, args.overrides)
    if problems := scan(loaded.spec).problems:
        raise DataError(problems)
    outcome = run_spec(
        loaded,
        args.until,
        from_scratch=args.from_scratch,
        display=make_display(loaded.spec.log),
    )
    _print_results(outcome.folder, [d.node.name for d in outcome.decisions])
    return 0


def _print_results(folder: Path, names: list[str]) -> None:
    if "evaluate" in names:
        from toolkit.report.table import print_summary
        from toolkit.report.write import write_report

        write_report(folder)
        print_summary(folder)
        print(f"report:  {folder / 'report.html'}")
    print(f"results: {folder / 'stages'}")
    if "export" in names:
        print(f"models:  {folder / 'export'}")
    sys.stdout.flush()

"""`report`: a table here, report.json and one self-contained report.html in the run folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from toolkit.cli.parser import add_json_argument

DESCRIPTION = """Print how a run came out, and write report.json and report.html (one page that
needs no other file) into its folder. A run that is not finished shows what there is and says what
is missing. Several runs are joined into one page: their models are compared on the held-out prompts
they share (win rates, Elo), sweeps and curves side by side."""

EXAMPLES = """  python -m toolkit report runs/quickstart
  python -m toolkit report runs/quickstart --out page.html
  python -m toolkit report runs/quickstart --json > figures.json
  python -m toolkit report runs/a runs/b --out runs/both.html"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `report`."""
    parser.add_argument("runs", nargs="+", metavar="run", help="the run folder; or several")
    parser.add_argument(
        "--out", metavar="FILE", help="where the page goes, instead of RUN/report.html"
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Write the report; print the table, or with --json the report itself."""
    from toolkit.report.table import print_report
    from toolkit.report.write import to_json, write_report

    if len(args.runs) > 1:
        return _run_joined(args)
    report = write_report(args.runs[0], args.out)
    if args.json:
        sys.stdout.write(to_json(report))
    else:
        print_report(report)
        print(f"page: {args.out or Path(args.runs[0]) / 'report.html'}")
    return 0


def _run_joined(args: argparse.Namespace) -> int:
    from toolkit.report.joined.write import print_joined, write_joined
    from toolkit.report.write import to_json

    report, page = write_joined(args.runs, args.out)
    if args.json:
        sys.stdout.write(to_json(report))
    else:
        print_joined(report)
        print(f"page: {page}")
    return 0

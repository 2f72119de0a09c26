"""`diff`: which stages of two runs differ, because of what, and how their figures moved."""

from __future__ import annotations

import argparse
from pathlib import Path

from toolkit.pipeline.compare import StageDifference, compare_runs

DESCRIPTION = """Compare two runs stage by stage: the settings, files and versions that differ, and
the figures of their results, the first run's first."""

EXAMPLES = """  python -m toolkit diff runs/a runs/b
  python -m toolkit run a.yaml out=runs/b share=runs ppo.kl.coef=0.05     makes such a runs/b"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `diff`."""
    parser.add_argument("first", type=Path, help="a run folder")
    parser.add_argument("second", type=Path, help="another run folder")


def run(args: argparse.Namespace) -> int:
    """Print the comparison."""
    print("\n".join(line for d in compare_runs(args.first, args.second) for line in _lines(d)))
    return 0


def _lines(difference: StageDifference) -> list[str]:
    verdict = "same" if difference.same else "; ".join(difference.causes)
    figures = difference.figures.items()
    width = max((len(name) for name in difference.figures), default=0)
    return [
        f"{difference.name:<10} {verdict}",
        *(f"    {name:<{width}}  {one:.6g} -> {two:.6g}" for name, (one, two) in figures),
    ]

"""`show`: the resolved spec, each value with its origin; or what differs from a preset."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence

from toolkit.cli.parser import add_json_argument, add_spec_arguments
from toolkit.spec.deviations import Comparison, Deviation, compare
from toolkit.spec.load import load_spec
from toolkit.spec.resolved import resolved_yaml

DESCRIPTION = """Print every value of a spec, defaults and presets included, and where each
came from. The output is itself a spec that loads alike.

With --deviations: what the spec does otherwise than a preset, and the comment that says why;
apart from that, what it is done with: machine, models, data, output. The preset is the one of the
paper (instructgpt/...) the spec extends, else the nearest it extends, else instructgpt/1.3b; or
the one you name."""

EXAMPLES = """  python -m toolkit show my.yaml
  python -m toolkit show my.yaml ppo.kl.coef=0.05 --deviations
  python -m toolkit show my.yaml --deviations instructgpt/1.3b"""

_WIDEST = 36


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `show`."""
    add_spec_arguments(parser)
    parser.add_argument(
        "--deviations",
        action="store_true",
        help="only what differs from the paper's preset; a word after it names another, such as "
        "instructgpt/6b",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print the spec."""
    spec, overrides, preset = _words(args)
    loaded = load_spec(spec, overrides, files=False)
    if args.deviations:
        found = compare(loaded, preset)
        print(json.dumps(found.as_record(), indent=2) if args.json else comparison_text(found))
    elif args.json:
        print(json.dumps({"values": loaded.tree, "origins": loaded.origins}, indent=2))
    else:
        sys.stdout.write(resolved_yaml(loaded))
    return 0


def _words(args: argparse.Namespace) -> tuple[str, list[str], str | None]:
    """Return (spec, overrides, preset); with --deviations a word that is neither is a preset's."""
    words = [args.spec, *args.overrides]
    if not args.deviations:
        return args.spec, args.overrides, None
    names = [word for word in words if "=" not in word]
    spec = next((name for name in names if name.endswith((".yaml", ".yml"))), args.spec)
    presets = [name for name in names if name != spec]
    rest = [word for word in words if word != spec and word not in presets[:1]]
    return spec, rest, presets[0] if presets else None


def comparison_text(found: Comparison) -> str:
    """Return the comparison as lines: the recipe, then the environment."""
    count = len(found.recipe)
    number = f"{count} deviation{'' if count == 1 else 's'}" if count else "no deviations"
    lines = [f"recipe: {number} from preset {found.preset}", *_rows(found.recipe)]
    if found.environment:
        lines += ["", "environment (not part of the recipe):", *_rows(found.environment)]
    return "\n".join([*lines, *(["", f"note: {found.note}"] if found.note else [])])


def _rows(deviations: Sequence[Deviation]) -> Iterator[str]:
    columns = [(d.path, _short(d.preset), _short(d.own)) for d in deviations]
    widths = [max((len(row[column]) for row in columns), default=0) for column in range(3)]
    for deviation, (path, theirs, ours) in zip(deviations, columns, strict=True):
        why = f"  # {deviation.why}" if deviation.why else ""
        yield (
            f"  {path:<{widths[0]}}  {theirs:>{widths[1]}} -> {ours:<{widths[2]}}"
            f"  {deviation.origin}{why}"
        )


def _short(value: str) -> str:
    return value if len(value) <= _WIDEST else f"{value[: _WIDEST - 4]} ..."

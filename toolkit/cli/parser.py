"""Find the command, parse its arguments, teach when asked.

A command is a line in `COMMANDS` and a module with

    DESCRIPTION, EXAMPLES   texts of its --help
    add_arguments(parser)   its own arguments
    run(args) -> int        the exit code

The module is imported only when its command is used.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import textwrap
from collections.abc import Sequence
from types import ModuleType

from toolkit.spec.nearest import nearest_name

PROGRAM = "python -m toolkit"
_WIDTH = 96

COMMANDS: dict[str, tuple[str, str]] = {
    "new": ("toolkit.cli.new", "write a spec to start from"),
    "check": ("toolkit.cli.check", "every problem of spec and data, nothing is run"),
    "plan": ("toolkit.cli.plan", "each stage: run or reuse, why, and how much work"),
    "run": ("toolkit.cli.run", "every stage; continues a run that was stopped or killed"),
    "label": ("toolkit.cli.label", "a page on which people rank the answers of a run that waits"),
    "show": ("toolkit.cli.show", "every value of a spec, and where it came from"),
    "details": ("toolkit.cli.details", "thirty implementation details, and where each acts"),
    "report": ("toolkit.cli.report", "a table, one HTML page and a JSON of how a run came out"),
    "diff": ("toolkit.cli.diff", "which stages of two runs differ, and because of what"),
    "explain": ("toolkit.cli.explain", "what a stage was made from, why it ran, what came out"),
    "doctor": ("toolkit.cli.doctor", "what this machine has, and what is missing"),
}
"""Command -> (module, one line for --help), in the order a user meets them."""

EXIT_CODES = """exit codes:
  0 done   1 a stage failed   2 spec   3 data   4 does not fit   5 a gate failed
  6 waits for labels   130 interrupted (run again to continue)"""


def overview() -> str:
    """Return the text of `python -m toolkit --help`."""
    width = max(map(len, COMMANDS)) + 2
    lines = [
        f"usage: {PROGRAM} COMMAND ...",
        "",
        "InstructGPT from one YAML file: SFT, ranked answers, reward model, PPO-ptx.",
        "",
        "commands:",
        *(f"  {name:<{width}}{summary}" for name, (_, summary) in COMMANDS.items()),
        "",
        f"`{PROGRAM} COMMAND --help` explains a command; `--version` says what is installed.",
        "",
        "start:",
        f"  {PROGRAM} new my.yaml --from quickstart",
        f"  {PROGRAM} check my.yaml",
        f"  {PROGRAM} plan my.yaml",
        f"  {PROGRAM} run my.yaml",
        "",
        EXIT_CODES,
    ]
    return "\n".join(lines)


def dispatch(argv: Sequence[str]) -> int:
    """Run the command that `argv` names and return its exit code."""
    if argv[:1] == ["help"] and argv[1:2]:
        argv = [argv[1], "--help"]
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if argv else 2
    if argv[0] == "--version":
        from toolkit.cli.version import version_text

        print(version_text())
        return 0
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        near = nearest_name(name, COMMANDS)
        hint = f'did you mean "{near}"?' if near else f"known: {', '.join(COMMANDS)}"
        print(f"unknown command {name}; {hint}", file=sys.stderr)
        return 2
    module = importlib.import_module(COMMANDS[name][0])
    return int(module.run(_parsed(make_parser(name, module), rest)))


def _parsed(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of one command; a word that is none ends the program, with a hint."""
    args, unknown = parser.parse_known_intermixed_args(words)
    if unknown:
        dashed = any(word.startswith("--") and ("=" in word or "." in word) for word in unknown)
        hint = "; a value is given without dashes, such as ppo.kl.coef=0.05" if dashed else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    return args


def make_parser(name: str, module: ModuleType) -> argparse.ArgumentParser:
    """Return the parser of one command, with its description, examples and exit codes."""
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} {name}",
        description=_filled(module.DESCRIPTION),
        epilog=f"examples:\n{module.EXAMPLES.rstrip()}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return parser


def _filled(text: str) -> str:
    """Return the paragraphs of a text with lines of one width."""
    return "\n\n".join(textwrap.fill(part, _WIDTH) for part in text.split("\n\n"))


def add_spec_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the spec file and its overrides, as every command that reads a spec has them."""
    parser.add_argument("spec", help="the YAML file; paths in it start at the current directory")
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],  # without it, argparse calls them required where the spec is missing
        metavar="key=value",
        help="override a value, such as ppo.kl.coef=0.05, switch a section off, ppo.ptx=null, or "
        "give one whole, 'dpo={beta: 0.3}'; `show` prints every key",
    )


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document on stdout, nothing else there"
    )

"""`new`: copy a shipped spec to start from."""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from toolkit.spec.errors import Problem, SpecError
from toolkit.spec.nearest import did_you_mean
from toolkit.spec.resolved import one_line

_PLUGIN = re.compile(r"\bspecs/[\w/]+\.py(?=:)")

DESCRIPTION = """Write a spec to start from: a copy of a shipped one, comments included, with the
new file's name as the run's name. Functions it names (an oracle, a task) are copied too, to where
it looks for them from here, unless they are there. An existing file is never overwritten.

Shipped specs are the files of `specs/` beside the `toolkit` package (in a checkout), or inside it
(in an installed wheel). Paths in a spec start at the folder in which you type the command."""

EXAMPLES = """  python -m toolkit new --list
  python -m toolkit new my.yaml --from quickstart
  python -m toolkit new mine.yaml --from instructions    with an oracle to write your own after"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `new`."""
    parser.add_argument("file", nargs="?", help="the file to write, such as my.yaml")
    parser.add_argument(
        "--from",
        dest="source",
        default="quickstart",
        metavar="NAME",
        help="the shipped spec to copy (default: quickstart)",
    )
    parser.add_argument("--list", action="store_true", help="list the shipped specs")


def run(args: argparse.Namespace) -> int:
    """Write the copy, or list what there is."""
    shipped = shipped_specs()
    if args.list:
        for name, path in shipped.items():
            print(f"{name:<24}{_title(path)}")
        return 0
    if args.file is None:
        message = "expected the file to write, such as my.yaml; --list shows what can be copied"
        raise SpecError([Problem("command line", 0, 0, "", message)])
    if args.source not in shipped:
        message = f'no shipped spec "{args.source}"; {did_you_mean(args.source, shipped)}'
        raise SpecError([Problem("command line", 0, 0, "--from", message)])
    source, target = shipped[args.source], Path(args.file)
    text = source.read_text(encoding="utf-8")
    _write_new(target, _renamed(text, target.stem))
    copied = "".join(f" and {name}, which it names" for name in _copy_plugins(text, source.parent))
    check = shlex.join(["python", "-m", "toolkit", "check", str(target)])
    print(f"wrote {target}{copied}; next: {check}", file=sys.stderr)
    return 0


def shipped_specs() -> dict[str, Path]:
    """Return the shipped specs, name -> file."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "specs", package.parent / "specs"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def _title(path: Path) -> str:
    """Return the first sentence of the file's leading comment."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
    text = " ".join(line.removeprefix("#").strip() for line in comment)
    return text.partition(". ")[0].rstrip(".")


def _renamed(text: str, name: str) -> str:
    """Return the spec under another run name, so that two copies do not share a run folder."""
    line = f"name: {one_line(name)}"
    place = re.compile(r"^name:.*?(?=\s+#|$)", flags=re.MULTILINE)
    renamed, count = place.subn(lambda _: line, text, count=1)
    return renamed if count else f"{line}\n{text}"


def _copy_plugins(text: str, shipped: Path) -> Iterator[str]:
    """Copy the Python files that a shipped spec names to where it looks for them; yield each."""
    for name in dict.fromkeys(_PLUGIN.findall(text)):
        source, target = shipped / Path(name).relative_to("specs"), Path(name)
        if target.exists() or not source.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_new(target, source.read_text(encoding="utf-8"))
        yield name


def _write_new(target: Path, text: str) -> None:
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        message = "is there already and is not overwritten; choose another name"
        raise SpecError([Problem(str(target), 0, 0, "", message)]) from None
    except FileNotFoundError:
        message = f'there is no folder "{target.parent}"; make it first'
        raise SpecError([Problem(str(target), 0, 0, "", message)]) from None
    except OSError as error:
        message = f"cannot be written: {error.strerror}"
        raise SpecError([Problem(str(target), 0, 0, "", message)]) from None

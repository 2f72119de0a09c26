"""`label`: a page on which people rank the answers that a run has collected."""

from __future__ import annotations

import argparse
import errno
import getpass
import os
import shlex
import sys
import webbrowser
from pathlib import Path

from toolkit.label.desk import Desk, Refused, check_labeler
from toolkit.label.server import ADDRESS, PORT, PageServer
from toolkit.label.transfer import export_tasks, import_rankings, release
from toolkit.pipeline.people import Waiting, find_waiting, ranked_so_far
from toolkit.spec.errors import ToolkitError

DESCRIPTION = """With `label: {by: people}` a run collects answers, waits (exit code 6), and goes on
when enough of them are ranked. This opens a page on which people rank them: one prompt at a time,
its answers in shuffled order, without the name of the model that gave them; 1 is best, and equal
ranks tie. Every ranking is on disk before the page shows the next prompt. Ctrl-C ends the server;
type the same `run` command again when label.quorum of the prompts are ranked.

The page is to be had on this machine only. On another one, forward the port and open the same
address there: ssh -L 8420:127.0.0.1:8420 MACHINE. Several people may rank, on one page after the
other or at the same time: each prompt goes to one of them, a share label.overlap to all.

With another labelling tool, --export writes what is to rank, and --import checks and adds a file of
{"prompt", "responses", "ranks", "labeler"}, a line for each ranking. What is exported is kept for
--labeler: the page and other exports leave it out, apart from the share label.overlap, which
everybody gets. For several labelers, export --count prompts for each; --release takes back what is
not ranked."""

EXAMPLES = """  python -m toolkit label runs/helpful
  python -m toolkit label runs/helpful --labeler ann --port 8421 --no-browser
  python -m toolkit label runs/helpful --export tasks.jsonl
  python -m toolkit label runs/helpful --labeler ann --export ann.jsonl --count 200
  python -m toolkit label runs/helpful --import ranked.jsonl"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `label`."""
    parser.add_argument("run", type=Path, help="the run folder")
    parser.add_argument(
        "--labeler", metavar="NAME", help="who ranks, as the records name them; default: your login"
    )
    parser.add_argument(
        "--port",
        type=int,
        help=f"where the page is served; default: {PORT}, or a free one where that is taken",
    )
    parser.add_argument("--no-browser", action="store_true", help="open no browser")
    files = parser.add_mutually_exclusive_group()
    files.add_argument("--export", metavar="FILE", type=Path, help="write what is to rank, no page")
    files.add_argument(
        "--import", metavar="FILE", dest="ranked", help="add the rankings of a file, no page"
    )
    files.add_argument(
        "--release", metavar="NAME", help="offer again what is out in files for NAME"
    )
    parser.add_argument(
        "--count", metavar="N", type=_count, help="with --export: at most N prompts"
    )


def _count(word: str) -> int:
    if word.isdecimal() and int(word) > 0:
        return int(word)
    raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {word}")


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C, or export, import or release."""
    if args.count is not None and args.export is None:
        raise ToolkitError("--count: says how many prompts --export writes; add --export FILE")
    waiting = find_waiting(args.run)
    if args.ranked is not None:
        return _import(waiting, args.ranked)
    if args.release is not None:
        count = release(waiting, args.release)
        print(f"{count} prompts that are out for {args.release}, in all files, are offered again")
        return 0
    labeler = _labeler(args.labeler)
    if args.export is not None:
        return _export(waiting, labeler, args.export, args.count)
    return _serve(waiting, labeler, args.port, browse=not args.no_browser)


def _export(waiting: Waiting, labeler: str, file: Path, most: int | None) -> int:
    done = export_tasks(waiting, labeler, file, most)
    command = f"`python -m toolkit label {waiting.run}"
    print(
        f"{file}: {done.prompts} prompts for {labeler} to rank for {waiting.stage}, {done.kept} of "
        f"them for nobody else (label.overlap {waiting.spec.label.overlap:g})"
    )
    print(
        f"what is for nobody else is in no other export and not on the page, until {command} "
        f"--import FILE` adds its rankings or {command} --release {shlex.quote(labeler)}` takes "
        "it back"
    )
    return 0


def _import(waiting: Waiting, file: str) -> int:
    done = import_rankings(waiting, file)
    for warning in done.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    known = f"; {done.known} were there already" if done.known else ""
    print(f"{waiting.file}: added {done.added} of {done.added + done.known} rankings{known}")
    print(_onwards(waiting))
    return 0


def _labeler(given: str | None) -> str:
    """Return who ranks.

    Raises:
        ToolkitError: the name cannot stand in a record, or the login has none.
    """
    try:
        name = getpass.getuser() if given is None else given
        check_labeler(name)
    except Refused as error:
        raise ToolkitError(f"--labeler: {error}") from error
    except (KeyError, OSError, ImportError) as error:
        raise ToolkitError("this login has no name; say who ranks with --labeler NAME") from error
    return name


def _serve(waiting: Waiting, labeler: str, port: int | None, *, browse: bool) -> int:
    server = _listen(Desk(waiting), labeler, port)
    print(f"{waiting.stage} of {waiting.run}: {server.desk.progress()}")
    if out := server.desk.exported_text():
        print(out)
    print(f"the page is at {server.url}  (Ctrl-C ends it; every saved ranking is kept)", flush=True)
    try:
        if browse and _has_screen():
            webbrowser.open(server.url)
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()
    print(_onwards(waiting))
    return 0


def _listen(desk: Desk, labeler: str, port: int | None) -> PageServer:
    """Return a server that listens.

    Raises:
        ToolkitError: the port that was asked for is taken, or may not be used.
    """
    try:
        return PageServer(desk, labeler, PORT if port is None else port)
    except (OSError, OverflowError) as error:
        if port is None and isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            return PageServer(desk, labeler, 0)
        why = error.strerror if isinstance(error, OSError) else "ports go from 0 to 65535"
        raise ToolkitError(
            f"--port {port}: {ADDRESS} cannot be used there ({why}); name another one, or leave "
            "--port out"
        ) from error


def _has_screen() -> bool:
    """Tell whether a browser would be a window: one in this terminal would be in the way."""
    return sys.platform == "darwin" or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())


def _onwards(waiting: Waiting) -> str:
    """Say how far the rankings are, and what comes next."""
    progress = ranked_so_far(waiting.file, waiting.samples)
    quorum = waiting.spec.label.quorum
    if progress.suffices(quorum):
        return f"{progress}: enough; type the same `run` command again to go on"
    return (
        f"{progress}; the run goes on from {progress.needed(quorum)} (label.quorum {quorum:g}); "
        f"`python -m toolkit label {waiting.run}` opens the page again"
    )

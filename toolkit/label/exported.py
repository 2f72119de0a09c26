"""Which prompts are out in files, and for whom, so that nobody else is given them too.

A line of the file beside the rankings is an export, {"labeler", "prompts": [names]}, or takes back
what was exported for a labeler before, {"labeler", "released": true}.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any

from toolkit.data.collected import Question
from toolkit.label.book import append_rows, read_whole


class Exports:
    """Who has which prompts in a file; kept up with the run folder."""

    def __init__(self, rankings: Path) -> None:
        """Read what there is beside the run's own file of rankings."""
        self.path = rankings.with_suffix(".exported.jsonl")
        self._seen: object = None
        self._holders: dict[str, set[str]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the file again where it has changed."""
        if not self.path.exists():
            self._seen, self._holders = None, {}
            return
        found = self.path.stat()
        seen = (found.st_ino, found.st_size, found.st_mtime_ns)
        if seen != self._seen:
            self._seen, self._holders = seen, _holders(self.path.read_bytes().splitlines())

    def holders(self, question: Question) -> Set[str]:
        """Return the labelers who have a prompt in a file."""
        return self._holders.get(question.name, frozenset())

    def add(self, labeler: str, questions: Iterable[Question]) -> None:
        """Note an export, on disk when this returns."""
        self._append({"labeler": labeler, "prompts": [question.name for question in questions]})

    def release(self, labeler: str) -> None:
        """Take back all that was exported for a labeler."""
        self._append({"labeler": labeler, "released": True})

    def _append(self, row: dict[str, Any]) -> None:
        append_rows(self.path, [row])
        self.refresh()


def _holders(lines: Iterable[bytes]) -> dict[str, set[str]]:
    """Return prompt's name -> who has it."""
    held: dict[str, list[str]] = defaultdict(list)
    for row in read_whole(lines):
        if not isinstance(labeler := row.get("labeler"), str):
            continue
        if "released" in row:
            held[labeler] = []
        held[labeler] += row.get("prompts", [])
    found: dict[str, set[str]] = defaultdict(set)
    for labeler, prompts in held.items():
        for name in prompts:
            found[name].add(labeler)
    return dict(found)

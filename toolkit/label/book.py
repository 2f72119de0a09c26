"""A run's own file of rankings: whole lines are appended under a lock, and read as they come.

Several servers may write it, and a run may read it, at the same time. A line is on disk before its
labeler is told that it is saved.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from toolkit.data.collected import Question
from toolkit.data.fields import FieldError
from toolkit.data.records import Record as Ranking
from toolkit.data.records import parse_collected_ranking
from toolkit.pipeline.files import fsync_folder


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append records to a JSON Lines file, all of them or none, and flush them to disk.

    Raises:
        OSError: the disk is full, or may not be written.
    """
    text = "".join(json.dumps(row) + "\n" for row in rows).encode("ascii")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # a group may write, if the umask lets it
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        end = _end_of_lines(handle)
        try:
            _write_at(handle, text, end)
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, end)
            raise
    finally:
        os.close(handle)
    fsync_folder(path.parent)


def _write_at(handle: int, data: bytes, place: int) -> None:
    while data:
        written = os.pwrite(handle, data, place)
        data, place = data[written:], place + written


def _end_of_lines(handle: int) -> int:
    """Return where the next line begins; what a power cut left of a line is cut off."""
    size = os.fstat(handle).st_size
    if size == 0 or os.pread(handle, 1, size - 1) == b"\n":
        return size
    text = os.pread(handle, size, 0)
    end = text.rfind(b"\n") + 1
    try:
        json.loads(text[end:])
    except ValueError:
        os.ftruncate(handle, end)
        return end
    _write_at(handle, b"\n", size)  # whole, from an editor that ends no last line
    return size + 1


def read_whole(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the records; a line that a power cut tore, or that an editor spoiled, is none."""
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Wait until no other import or export of a run's own file of rankings is on its way.

    A lock of its own: the file's is held for as long as a line takes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


class Book:
    """Who has ranked what, kept up with the file; safe for several threads.

    Lines that are no ranking of these answers are passed over: a run says what is wrong with them.
    """

    def __init__(self, path: Path, questions: Iterable[Question]) -> None:
        """Read what there is."""
        self.path = path
        self.questions = {question.prompt: question for question in questions}
        self.lock = Lock()
        self._forget()
        self.refresh()

    def _forget(self) -> None:
        self.offset, self.inode = 0, 0
        self.rankings: dict[int, dict[str | None, Ranking]] = defaultdict(dict)

    def refresh(self) -> None:
        """Read the whole lines that were added since the last look."""
        with self.lock:
            if not self.path.exists():
                self._forget()
                return
            found = self.path.stat()
            if found.st_size < self.offset or found.st_ino != self.inode:
                self._forget()  # somebody edited it
                self.inode = found.st_ino
            if found.st_size == self.offset:
                return
            with self.path.open("rb") as file:
                file.seek(self.offset)
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self.offset += len(whole)
            for row in read_whole(whole.splitlines()):
                self._take(row)

    def _take(self, row: dict[str, Any]) -> None:
        try:
            ranking = parse_collected_ranking(0, row)
        except (ValueError, FieldError):
            return
        question = self.questions.get(ranking.prompt)
        if question is not None and set(question.answers) >= set(ranking.responses):
            self.rankings[question.number][ranking.labeler] = ranking

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a record, on disk when this returns."""
        append_rows(self.path, [row])
        self.refresh()

    def by(self, labeler: str, question: Question) -> Ranking | None:
        """Return how a labeler ranked a prompt, or None."""
        return self.rankings.get(question.number, {}).get(labeler)

    def is_ranked(self, question: Question) -> bool:
        """Tell whether anybody ranked a prompt."""
        return bool(self.rankings.get(question.number))

"""Tasks for another labelling tool, and its rankings back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from toolkit.data.collected import latest, place, read_all
from toolkit.data.contradictions import contradictions
from toolkit.data.formats import read_collected_rankings, shorten
from toolkit.data.records import Record as Ranking
from toolkit.data.rows import read_rows
from toolkit.label.book import append_rows
from toolkit.label.desk import Desk
from toolkit.pipeline.files import write_text_atomic
from toolkit.pipeline.people import Waiting
from toolkit.spec.errors import DataError, ToolkitError


def export_tasks(waiting: Waiting, labeler: str, file: Path) -> int:
    """Write what a labeler is still to rank, and return how many prompts that is.

    A line is {"prompt", "responses"}, in the order of the page: the answers are shuffled, each text
    is there once, and nothing says which model gave it.

    Raises:
        ToolkitError: the file is there already; people may have written their ranks into it.
    """
    if file.exists():
        raise ToolkitError(f"{file}: is there already and is not overwritten; choose another name")
    desk = Desk(waiting)
    tasks = [
        {"prompt": question.prompt, "responses": desk.shown(question, labeler)}
        for question in desk.open_for(labeler)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(file, "".join(json.dumps(task) + "\n" for task in tasks))
    return len(tasks)


class Imported(NamedTuple):
    """What an import did, and sentences a user should read."""

    added: int
    known: int
    warnings: list[str]


def import_rankings(waiting: Waiting, file: str) -> Imported:
    """Add the rankings of a file to those of the run; one that is there already is not added.

    Raises:
        DataError: a record is wrong, or ranks what was not collected; it holds every problem, and
            nothing is added.
    """
    read = read_collected_rankings(file)
    _, strangers = place(read, waiting.samples)
    if read.problems or strangers:
        raise DataError([*read.problems, *shorten(strangers, fix="")])
    there = _everything_in(waiting)
    known, warnings = _contents(there), _warnings(file, read.records, there)
    new = {ranking.line for ranking in read.records if _content(ranking) not in known}
    added = [row.value for row in read_rows(file) if row.value is not None and row.line in new]
    if added:
        append_rows(waiting.file, added)
    return Imported(len(added), read.read - len(added), warnings)


def _warnings(file: str, given: list[Ranking], there: list[Ranking]) -> list[str]:
    """Say what does not count of the rankings of a file, and where they contradict themselves."""
    texts, counting = [], latest(given)
    if replaced := len(_contents(given) - _contents(counting)):
        texts.append(
            f"{file}: a later ranking by the same labeler of the same answers replaces an earlier "
            f"one ({replaced})"
        )
    if corrected := len(_contents(given) & _replaced(there)):
        texts.append(
            f"{file}: rankings that were corrected since stay corrected ({corrected}); correct "
            "them again on the page"
        )
    return texts + contradictions(file, counting)


def _replaced(rankings: list[Ranking]) -> set[object]:
    """Return what a later record of the same labeler took the place of."""
    return _contents(rankings) - _contents(latest(rankings))


def _everything_in(waiting: Waiting) -> list[Ranking]:
    """Return what the run's own file holds, also where a later record took its place.

    Raises:
        DataError: that file is damaged.
    """
    every = read_all(waiting.file)
    if every.problems:
        raise DataError(every.problems)
    return every.records


def _contents(rankings: Iterable[Ranking]) -> set[object]:
    return {_content(ranking) for ranking in rankings}


def _content(ranking: Ranking) -> object:
    """Return what makes two records the same: all but the line, and the order of the answers."""
    said = ranking.metadata or ({},) * len(ranking.responses)
    answers = zip(ranking.responses, ranking.ranks, said, strict=True)
    each = (json.dumps([text, rank, {**more}], sort_keys=True) for text, rank, more in answers)
    return ranking.prompt, ranking.labeler, tuple(sorted(each))

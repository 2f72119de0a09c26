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
from toolkit.label.book import append_rows, one_at_a_time
from toolkit.label.desk import Desk
from toolkit.pipeline.files import written_beside
from toolkit.pipeline.people import Waiting
from toolkit.spec.errors import DataError, ToolkitError


class Exported(NamedTuple):
    """How many prompts a file got, and how many of them nobody else gets."""

    prompts: int
    kept: int


def export_tasks(waiting: Waiting, labeler: str, file: Path, most: int | None = None) -> Exported:
    """Write what a labeler is to rank, which is then in no other export and not on the page.

    A line is {"prompt", "responses"}, in the order of the page: the answers are shuffled, each text
    is there once, and nothing says which model gave it. What `label.overlap` shares goes to each
    labeler once.

    Args:
        waiting: the stage that waits.
        labeler: who is to rank.
        file: to write.
        most: prompts; None: all there are.

    Raises:
        ToolkitError: nothing is left to rank, or the file is there already; people may have written
            their ranks into it.
    """
    with one_at_a_time(waiting.file):
        _refuse_to_overwrite(file)
        desk = Desk(waiting)
        questions = desk.open_for(labeler)[:most]
        if not questions:
            raise ToolkitError(_nothing_left(desk, labeler))
        tasks = [{"prompt": q.prompt, "responses": desk.shown(q, labeler)} for q in questions]
        file.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(file, "".join(json.dumps(task) + "\n" for task in tasks)):
            desk.exports.add(labeler, questions)  # first: a file that is there is noted
    return Exported(len(tasks), sum(not desk.is_shared(question) for question in questions))


def _refuse_to_overwrite(file: Path) -> None:
    if file.exists():
        raise ToolkitError(f"{file}: is there already and is not overwritten; choose another name")


def _nothing_left(desk: Desk, labeler: str) -> str:
    out = desk.exported_text()
    why = out or "every prompt is ranked; type the `run` command again to go on"
    return f"nothing is left to export for {labeler}: {why}"


def release(waiting: Waiting, labeler: str) -> int:
    """Offer what is out in a labeler's files again; return how many prompts that is.

    Raises:
        ToolkitError: nothing is out for them.
    """
    with one_at_a_time(waiting.file):
        desk = Desk(waiting)
        out = desk.exported()
        if labeler not in out:
            known = ", ".join(sorted(out))
            hint = f"prompts are out for {known}" if known else "no prompts are out in files"
            raise ToolkitError(f"--release {labeler}: nothing is out for that name; {hint}")
        desk.exports.release(labeler)
    return out[labeler]


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
    with one_at_a_time(waiting.file):
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

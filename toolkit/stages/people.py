"""Rankings that people made of a round's collected answers, put back to the answers they rank.

A record names the prompt and some of its answers as `collect` gave them, in any order, with their
ranks. The token ids are those that were sampled: no answer is tokenised again.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from toolkit.data.contradictions import contradictions
from toolkit.data.formats import Read, read_collected_rankings, shorten
from toolkit.data.records import Record as Ranking
from toolkit.spec.errors import DataError, Problem, WaitsForLabels
from toolkit.stages.shared import Record

PER_ANSWER = ("responses", "responses_ids", "finished", "source")


class Ranked(NamedTuple):
    """Rankings with token ids, and sentences a user should read."""

    records: list[Record]
    warnings: list[str]


def ranked_by_people(name: str, file: str | None, samples: list[Record], where: Path) -> Ranked:
    """Return the rankings of collected answers that a file of people's holds.

    Args:
        name: of the stage that asks.
        file: `label.file`; None: nobody has ranked yet.
        samples: what was collected.
        where: the file that it lies in.

    Raises:
        WaitsForLabels: there is no file yet.
        DataError: a record is wrong, or ranks what was not collected; it holds every problem.
    """
    if file is None:
        raise WaitsForLabels(
            f"{name}: {len(samples)} prompts wait to be ranked, with their answers in {where}; "
            'write a JSON Lines file of {"prompt", "responses", "ranks", "labeler"}, rank 1 the '
            "best and equal ranks a tie, name it in label.file, and run again: what is finished is "
            "kept"
        )
    read = read_collected_rankings(file)
    by_prompt: dict[str, list[Record]] = {}
    for sample in samples:
        by_prompt.setdefault(sample["prompt"], []).append(sample)
    records = _joined(read, by_prompt)
    if read.problems:
        raise DataError(shorten(read.problems))
    asked = {record["prompt"] for record in records}
    warnings = contradictions(file, read.records)
    if left := len(by_prompt.keys() - asked):
        count = f"{len(asked)} of {len(by_prompt)} prompts"
        warnings.append(f"{file} ranks {count}; {left} are left out")
    return Ranked(records, warnings)


def _joined(read: Read[Ranking], by_prompt: dict[str, list[Record]]) -> list[Record]:
    """Return each ranking with what was sampled; what was not becomes a problem of the file."""
    found = []
    for ranking in read.records:
        samples = by_prompt.get(ranking.prompt)
        if samples is None:
            _add(read, ranking, "prompt", "is none of the collected ones; copy it as it is there")
            continue
        places = [_place(samples, answer) for answer in ranking.responses]
        missing = next((at for at, place in enumerate(places) if place is None), None)
        if missing is None:
            found.append(_record(ranking, [place for place in places if place is not None]))
        else:
            message = "is no answer collected for this prompt; copy it as it is there"
            _add(read, ranking, f"responses.{missing}", message)
    return found


def _add(read: Read[Ranking], ranking: Ranking, field: str, message: str) -> None:
    read.problems.append(Problem(read.file, ranking.line, 0, field, message))


def _place(samples: list[Record], answer: str) -> tuple[Record, int] | None:
    return next(
        ((s, s["responses"].index(answer)) for s in samples if answer in s["responses"]), None
    )


def _record(ranking: Ranking, places: list[tuple[Record, int]]) -> Record:
    first = places[0][0]
    about = {key: value for key, value in first.items() if key not in PER_ANSWER}
    answers = {key: [sample[key][at] for sample, at in places] for key in PER_ANSWER}
    said: Record = {} if ranking.labeler is None else {"labeler": ranking.labeler}
    if ranking.metadata:
        said["metadata"] = [dict(each) for each in ranking.metadata]
    return about | answers | {"ranks": list(ranking.ranks)} | said

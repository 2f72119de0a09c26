"""Rankings that people made of a round's collected answers, put back to the answers they rank.

A record names the prompt and some of its answers as `collect` gave them, in any order, with their
ranks. The token ids are those that were sampled: no answer is tokenised again.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    records, strangers = _joined(read, by_prompt)
    if read.problems or strangers:
        raise DataError([*read.problems, *shorten(strangers, fix="")])
    asked = {record["prompt"] for record in records}
    warnings = contradictions(file, read.records)
    if left := len(by_prompt.keys() - asked):
        count = f"{len(asked)} of {len(by_prompt)} prompts"
        warnings.append(f"{file} ranks {count}; {left} are left out")
    return Ranked(records, warnings)


def _joined(
    read: Read[Ranking], by_prompt: dict[str, list[Record]]
) -> tuple[list[Record], list[Problem]]:
    """Return each ranking with what was sampled, and a problem for each that ranks what was not."""
    found: list[Record] = []
    problems: list[Problem] = []

    def refuse(ranking: Ranking, field: str, message: str) -> None:
        problems.append(Problem(read.file, ranking.line, 0, field, message))

    for ranking in read.records:
        samples = by_prompt.get(ranking.prompt)
        if samples is None:
            refuse(ranking, "prompt", "is none of the collected ones; copy it as it is there")
            continue
        places = _places(samples, ranking.responses)
        missing = next((at for at, place in enumerate(places) if place is None), None)
        if missing is None:
            given = [(samples[place[0]], place[1]) for place in places if place is not None]
            found.append(_record(ranking, given))
        else:
            message = "is no answer collected for this prompt; copy it as it is there"
            refuse(ranking, f"responses.{missing}", message)
    return found, problems


def _places(samples: list[Record], answers: Sequence[str]) -> list[tuple[int, int] | None]:
    """Return (sample, answer of it) of each answer; equal ones take the equal answers in turn."""
    found: list[tuple[int, int] | None] = []
    for answer in answers:
        equal = [
            (at, number)
            for at, sample in enumerate(samples)
            for number, given in enumerate(sample["responses"])
            if given == answer
        ]
        left = [place for place in equal if place not in found]
        found.append(next(iter(left or equal), None))
    return found


def _record(ranking: Ranking, places: list[tuple[Record, int]]) -> Record:
    first = places[0][0]
    about = {key: value for key, value in first.items() if key not in PER_ANSWER}
    answers = {key: [sample[key][at] for sample, at in places] for key in PER_ANSWER}
    said: Record = {} if ranking.labeler is None else {"labeler": ranking.labeler}
    if ranking.metadata:
        said["metadata"] = [dict(each) for each in ranking.metadata]
    return about | answers | {"ranks": list(ranking.ranks)} | said

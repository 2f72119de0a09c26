"""Collected answers as people rank them, and their rankings put back to what was sampled.

A record names a prompt and some of its answers as `collect` gave them, in any order, with their
ranks. In the file that a run keeps for its people a later record of the same labeler about the same
answers takes the place of the earlier one: that is how a ranking is corrected. Records there that
rank what is not collected are of an earlier `collect`, and are set aside.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.data.formats import Read, read_collected_rankings
from toolkit.data.records import Record as Ranking
from toolkit.spec.errors import Problem

Sample = Mapping[str, Any]
"""A record of samples.jsonl."""

Place = tuple[int, int]
"""Which sample of a prompt, and which answer of it."""


@dataclass(frozen=True)
class Question:
    """A prompt with answers to rank.

    Args:
        number: its position among the questions of a round, from 0.
        prompt: the text.
        answers: its different answers, in the order they were collected.
    """

    number: int
    prompt: str
    answers: tuple[str, ...]

    @cached_property
    def name(self) -> str:
        """A digest of the texts: what a page and a server agree on, whoever was restarted."""
        texts = json.dumps([self.prompt, *self.answers]).encode("ascii")
        return hashlib.blake2b(texts, digest_size=8).hexdigest()


def questions_of(samples: Iterable[Sample]) -> list[Question]:
    """Return what there is to rank; a prompt whose answers are all the same text is nothing."""
    found = [(p, tuple(a)) for p, a in _answers(samples).items() if len(a) > 1]
    return [Question(number, prompt, answers) for number, (prompt, answers) in enumerate(found)]


def _answers(samples: Iterable[Sample]) -> dict[str, dict[str, None]]:
    """Return prompt -> its different answers, both in order."""
    found: dict[str, dict[str, None]] = {}
    for sample in samples:
        found.setdefault(sample["prompt"], {}).update(dict.fromkeys(sample["responses"]))
    return found


class Placed(NamedTuple):
    """A ranking, and for each of its answers the sample it is from and its number there."""

    ranking: Ranking
    answers: list[tuple[Sample, int]]


def place(read: Read[Ranking], samples: Iterable[Sample]) -> tuple[list[Placed], list[Problem]]:
    """Return each ranking with what was sampled, and a problem for each that ranks what was not."""
    by_prompt: dict[str, list[Sample]] = {}
    for sample in samples:
        by_prompt.setdefault(sample["prompt"], []).append(sample)
    found: list[Placed] = []
    problems: list[Problem] = []

    def refuse(ranking: Ranking, field: str, message: str) -> None:
        problems.append(Problem(read.file, ranking.line, 0, field, message))

    for ranking in read.records:
        own = by_prompt.get(ranking.prompt)
        if own is None:
            refuse(ranking, "prompt", "is none of the collected ones; copy it as it is there")
            continue
        places = _places(own, ranking.responses)
        missing = next((at for at, answer in enumerate(places) if answer is None), None)
        if missing is None:
            given = [(own[answer[0]], answer[1]) for answer in places if answer is not None]
            found.append(Placed(ranking, given))
        else:
            message = "is no answer collected for this prompt; copy it as it is there"
            refuse(ranking, f"responses.{missing}", message)
    return found, problems


def _places(samples: Sequence[Sample], answers: Sequence[str]) -> list[Place | None]:
    """Return the place of each answer; equal ones take the equal answers in turn."""
    found: list[Place | None] = []
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


class Own(NamedTuple):
    """What the file that a run keeps for its people holds.

    Args:
        read: rankings that count, and what is wrong with the file.
        outdated: how many rank answers that are not, or no longer, collected.
    """

    read: Read[Ranking]
    outdated: int


def read_own(path: Path, samples: Iterable[Sample]) -> Own:
    """Read what counts of a run's own file of rankings."""
    read = read_all(path)
    answers = _answers(samples)
    fitting = [r for r in read.records if answers.get(r.prompt, {}).keys() >= set(r.responses)]
    outdated = len(read.records) - len(fitting)
    read.records = latest(fitting)
    return Own(read, outdated)


def read_all(path: Path) -> Read[Ranking]:
    """Read a run's own file of rankings as it is; it need not be there yet."""
    if not path.exists() or not path.stat().st_size:
        return Read(str(path))
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # who appends a line holds it until the line is whole
        read, last = read_collected_rankings(str(path)), _torn_line(path)
    read.problems = [problem for problem in read.problems if not 0 < problem.line == last]
    return read


def _torn_line(path: Path) -> int:
    """Return the number of a last line without its end, which a power cut may leave; 0: none."""
    text = path.read_bytes()
    return 0 if text.endswith(b"\n") else text.count(b"\n") + 1


def latest(rankings: Iterable[Ranking]) -> list[Ranking]:
    """Leave out what the same labeler ranked again; records without a labeler all stay."""
    found: dict[object, Ranking] = {}
    for ranking in rankings:
        found[judged(ranking) if ranking.labeler is not None else len(found)] = ranking
    return list(found.values())


def judged(ranking: Ranking) -> tuple[str | None, str, frozenset[str]]:
    """Return who ranked which answers: a second record of that replaces the first."""
    return ranking.labeler, ranking.prompt, frozenset(ranking.responses)


class Progress(NamedTuple):
    """How many of a round's prompts somebody has ranked."""

    ranked: int
    total: int

    def needed(self, quorum: float) -> int:
        """Return how many of them a run needs to go on: `label.quorum`, and at least one."""
        return max(1, math.ceil(quorum * self.total - 1e-9))

    def suffices(self, quorum: float) -> bool:
        """Tell whether a run goes on."""
        return self.ranked >= self.needed(quorum)

    def __str__(self) -> str:
        """Return it as a sentence."""
        return f"{self.ranked} of {self.total} prompts are ranked"


def progress_of(rankings: Iterable[Ranking], samples: Iterable[Sample]) -> Progress:
    """Count prompts that have a ranking, of those that have something to rank."""
    asked = {question.prompt for question in questions_of(samples)}
    return Progress(len(asked & {ranking.prompt for ranking in rankings}), len(asked))

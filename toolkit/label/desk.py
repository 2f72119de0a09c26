"""What each labeler is shown, in which order, and what becomes of their ranks. No HTTP here.

Orders are functions of position: of the prompts, of (seed, stage, labeler, prompt); of a prompt's
answers, of the same and the answer, so no place on the page favours a model.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from functools import lru_cache
from typing import Any

from toolkit.data.collected import Progress, Question, questions_of
from toolkit.data.seeds import digest_int, share
from toolkit.label.book import Book
from toolkit.label.exported import Exports
from toolkit.pipeline.people import Waiting

LONGEST_NAME = 100
BEFORE_SOMEBODY = 15 * 60
"""Seconds for which a prompt that a labeler has on the page is kept from the others."""


class Refused(ValueError):
    """An answer of a labeler that cannot be taken; the text is for them."""


class Desk:
    """Hands prompts to labelers and takes their ranks.

    A share `label.overlap` of the prompts goes to everybody. Each other one is offered until
    somebody has ranked it; labelers meet the prompts in different orders, and what one has on this
    desk's page the others get last, for a while. What is out in a file is in no other, and not on
    the page.
    """

    def __init__(self, waiting: Waiting) -> None:
        """Read what there is to rank, and what is ranked."""
        self.waiting, self.settings = waiting, waiting.spec.label
        self.questions = questions_of(waiting.samples)
        self.by_name = {question.name: question for question in self.questions}
        self.book = Book(waiting.file, self.questions)
        self.exports = Exports(waiting.file)
        self._order = lru_cache(maxsize=64)(self._make_order)
        self._on_page: dict[str, tuple[Question, float]] = {}  # labeler -> what, and since when
        self._lock = threading.Lock()  # between choosing a prompt and noting it

    def refresh(self) -> None:
        """Look at what others have ranked and exported since."""
        self.book.refresh()
        self.exports.refresh()

    def progress(self) -> Progress:
        """Count what is ranked, by anybody."""
        self.refresh()
        ranked = sum(self.book.is_ranked(question) for question in self.questions)
        return Progress(ranked, len(self.questions))

    def is_shared(self, question: Question) -> bool:
        """Tell whether everybody ranks this prompt."""
        place = (self.waiting.spec.seed, self.waiting.stage, question.number)
        return share(*place, "overlap") < self.settings.overlap

    def is_wanted(self, question: Question, labeler: str) -> bool:
        """Tell whether a ranking of this prompt by this labeler is still to be had."""
        if self.is_shared(question):
            return self.book.by(labeler, question) is None
        return not self.book.is_ranked(question)

    def is_open(self, question: Question, labeler: str) -> bool:
        """Tell whether a labeler is to rank this prompt, on the page or in a file."""
        out = self.exports.holders(question)
        held = labeler in out if self.is_shared(question) else bool(out)
        return not held and self.is_wanted(question, labeler)

    def open_for(self, labeler: str) -> list[Question]:
        """Return what a labeler is to rank, in their order."""
        self.refresh()
        return [question for question in self._order(labeler) if self.is_open(question, labeler)]

    def exported(self) -> dict[str, int]:
        """Return how many prompts each labeler has in files, of those still to be ranked."""
        self.refresh()
        return Counter(
            who
            for question in self.questions
            for who in self.exports.holders(question)
            if self.is_wanted(question, who)
        )

    def exported_text(self) -> str:
        """Say which prompts are out in files and not ranked yet; "" where none are."""
        listed = ", ".join(f"{number} for {who}" for who, number in sorted(self.exported().items()))
        if not listed:
            return ""
        command = f"`python -m toolkit label {self.waiting.run}"
        return (
            f"prompts that are out in exported files: {listed}; {command} --import FILE` brings "
            f"their rankings, {command} --release NAME` offers them again, as where a file is lost"
        )

    def shown(self, question: Question, labeler: str) -> list[str]:
        """Return the answers in the order in which a labeler sees them."""
        place, answers = self._place(labeler, question), question.answers
        order = sorted(range(len(answers)), key=lambda at: digest_int(*place, "answer", at))
        return [answers[at] for at in order]

    def _place(self, labeler: str, question: Question) -> tuple[object, ...]:
        return self.waiting.spec.seed, self.waiting.stage, labeler, question.name

    def _make_order(self, labeler: str) -> dict[Question, int]:
        order = sorted(self.questions, key=lambda q: digest_int(*self._place(labeler, q)))
        return {question: at for at, question in enumerate(order)}

    def task(self, labeler: str, name: str = "", after: str = "") -> dict[str, Any]:
        """Return what the page shows a labeler.

        Args:
            labeler: who ranks.
            name: of the prompt to show; "": the next that is to be ranked.
            after: of the prompt before it; "": the first.

        Raises:
            Refused: there is no such prompt, or other answers were collected since.
        """
        self._check(labeler)
        progress = self.progress()
        with self._lock:
            question = self._question(name) if name else self._next(labeler, after)
            self._note(labeler, question)
        mine = sum(self.book.by(labeler, each) is not None for each in self.questions)
        before = self._before(labeler, question)
        known = {
            "labeler": labeler,
            "ranked": progress.ranked,
            "total": progress.total,
            "enough": progress.suffices(self.settings.quorum),
            "taken": self.waiting.is_taken(),
            "mine": mine,
            "previous": before.name if before is not None else None,
        }
        if question is None:
            return known | {"id": None, "exported": self.exported_text()}
        return known | self._sheet(question, labeler)

    def _sheet(self, question: Question, labeler: str) -> dict[str, Any]:
        answers, given = self.shown(question, labeler), self.book.by(labeler, question)
        ranks = dict(zip(given.responses, given.ranks, strict=True)) if given is not None else {}
        return {
            "id": question.name,
            "prompt": question.prompt,
            "answers": answers,
            "ranks": [ranks.get(answer) for answer in answers],
        }

    def _question(self, name: str) -> Question:
        if name not in self.by_name:
            raise Refused("this prompt is none of those that wait to be ranked; reload the page")
        return self.by_name[name]

    def _next(self, labeler: str, after: str) -> Question | None:
        """Return the first open prompt behind another one in a labeler's order; it is a circle.

        What somebody else has on the page comes late: they may have gone, and it must be ranked.
        Last comes the one that was skipped.
        """
        places = self._order(labeler)
        skipped = self.by_name.get(after)
        begin = places[skipped] + 1 if skipped is not None else 0
        order = list(places)
        others = self._before_others(labeler)
        circle = [q for q in (*order[begin:], *order[:begin]) if self.is_open(q, labeler)]
        return min(circle, key=lambda q: (q == skipped, q in others), default=None)

    def _before_others(self, labeler: str) -> set[Question]:
        """Return what other labelers have on the page, of what is not for everybody."""
        since = time.monotonic() - BEFORE_SOMEBODY
        return {
            question
            for who, (question, when) in self._on_page.items()
            if who != labeler and when > since and not self.is_shared(question)
        }

    def _note(self, labeler: str, question: Question | None) -> None:
        """Note what a labeler has on the page from now on."""
        if question is None:
            self._on_page.pop(labeler, None)
        else:
            self._on_page[labeler] = question, time.monotonic()

    def _before(self, labeler: str, question: Question | None) -> Question | None:
        """Return the nearest prompt before another one that a labeler ranked, or is to rank."""
        places = self._order(labeler)
        end = places[question] if question is not None else len(places)
        for each in reversed(list(places)[:end]):
            if self.book.by(labeler, each) is not None or self.is_open(each, labeler):
                return each
        return None

    def save(self, labeler: str, name: str, ranks: list[int], seconds: float) -> None:
        """Take a labeler's ranks of a prompt's answers, in the order in which they were shown.

        Raises:
            Refused: they are no ranks of those answers, or other answers were collected since.
            OSError: they cannot be written.
        """
        self._check(labeler)
        question = self._question(name)
        answers = self.shown(question, labeler)
        self._check_ranks(ranks, len(answers))
        given = self.book.by(labeler, question)
        if given is not None and (*given.responses,) == (*answers,) and [*given.ranks] == ranks:
            return  # the same again, as of a double click
        self.book.add(
            {
                "prompt": question.prompt,
                "responses": answers,
                "ranks": ranks,
                "labeler": labeler,
                "seconds": round(seconds, 1),
            }
        )

    def _check(self, labeler: str) -> None:
        check_labeler(labeler)
        if self.waiting.is_outdated():
            raise Refused(
                "the run has collected other answers since; start `python -m toolkit label "
                f"{self.waiting.run}` again"
            )

    def _check_ranks(self, ranks: list[int], count: int) -> None:
        if len(ranks) != count:
            raise Refused(f"expected a rank for each of {count} answers, got {len(ranks)}")
        wrong = [rank for rank in ranks if not 1 <= rank <= count]
        if wrong:
            raise Refused(f"expected ranks from 1 (best) to {count}, got {wrong[0]}")
        if not self.settings.ties and len(set(ranks)) < count:
            raise Refused("label.ties is false: give each answer a rank of its own")


def check_labeler(name: str) -> None:
    """Refuse a name that cannot stand in a record.

    Raises:
        Refused: it is empty, too long, or holds what cannot be printed.
    """
    if not name.strip() or name != name.strip():
        raise Refused("a labeler needs a name, without white space around it")
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise Refused(f"a labeler's name is a line of at most {LONGEST_NAME} characters")


def read_ranks(body: Any) -> tuple[str, str, list[int], float]:
    """Return labeler, prompt's name, ranks and seconds of what a page sent.

    Raises:
        Refused: it is not {"labeler", "id", "ranks", "seconds"} of those types.
    """
    if not isinstance(body, dict):
        raise Refused('expected a record {"labeler", "id", "ranks", "seconds"}')
    labeler, name = body.get("labeler"), body.get("id")
    if not isinstance(labeler, str) or not isinstance(name, str):
        raise Refused("labeler and id must be texts")
    ranks = body.get("ranks")
    if not isinstance(ranks, list) or any(type(rank) is not int for rank in ranks):
        raise Refused("ranks must be a list of whole numbers, 1 the best")
    seconds = body.get("seconds", 0.0)
    if type(seconds) not in (int, float) or not math.isfinite(seconds) or seconds < 0:
        raise Refused("seconds must be a number of at least 0")
    return labeler, name, ranks, float(seconds)

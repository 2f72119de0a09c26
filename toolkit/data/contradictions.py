"""What rankings of people say against themselves: told to the user, and left as it is.

A pair of answers that one labeler ranked both ways teaches nothing, and neither do two equal
answers of different ranks: their gradients cancel. Both are slips of a hand, or of an export.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sized
from itertools import combinations

from toolkit.data.records import Record

Place = tuple[int, int]
"""Lines of the two records that disagree."""


def contradictions(file: str, records: Iterable[Record]) -> list[str]:
    """Return a sentence on each kind of contradiction in a file of rankings.

    Args:
        file: its name, for the sentences.
        records: its rankings.
    """
    rankings = list(records)
    twice = [record.line for record in rankings if _ranks_equal_answers_apart(record)]
    named, nameless = _both_ways(rankings)
    return [*_equal_text(file, twice), *_named_text(file, named), *_nameless_text(file, nameless)]


def _ranks_equal_answers_apart(record: Record) -> bool:
    return len(set(zip(record.responses, record.ranks, strict=True))) > len(set(record.responses))


def _both_ways(rankings: list[Record]) -> tuple[dict[str, list[Place]], list[Place]]:
    """Return labeler -> places of pairs they ranked both ways; and those of unnamed records."""
    groups: dict[tuple[str | None, str], list[Record]] = defaultdict(list)
    for record in rankings:
        groups[record.labeler, record.prompt].append(record)
    named: dict[str, list[Place]] = defaultdict(list)
    nameless: list[Place] = []
    for (labeler, _), group in groups.items():
        if len(group) > 1:
            (nameless if labeler is None else named[labeler]).extend(_opposed(group))
    return {who: places for who, places in named.items() if places}, nameless


def _opposed(group: list[Record]) -> Iterator[Place]:
    """Yield the first two lines of each pair of answers that the records rank both ways."""
    first: dict[tuple[str, str], int] = {}
    told: set[tuple[str, str]] = set()
    for record in group:
        for better, worse in _ordered(record):
            pair = (min(better, worse), max(better, worse))
            before = first.get((worse, better), record.line)
            if before != record.line and pair not in told:
                told.add(pair)
                yield before, record.line
            first.setdefault((better, worse), record.line)


def _ordered(record: Record) -> Iterator[tuple[str, str]]:
    """Yield (better, worse) of each pair of different answers that is no tie."""
    ranked = sorted(zip(record.ranks, record.responses, strict=True))
    for (high, better), (low, worse) in combinations(ranked, 2):
        if high < low and better != worse:
            yield better, worse


def _equal_text(file: str, lines: list[int]) -> list[str]:
    if not lines:
        return []
    return [
        f"{file}: {_count(len(lines), 'record')} {_verb(lines, 'gives', 'give')} one answer two "
        f"ranks, the first on line {lines[0]}; those pairs teach nothing; remove one of the two"
    ]


def _named_text(file: str, places: dict[str, list[Place]]) -> list[str]:
    every = [(place, who) for who, own in places.items() for place in own]
    if not every:
        return []
    (one, other), who = min(every)
    return [
        f"{file}: {_count(len(every), 'pair')} of answers {_verb(every, 'is', 'are')} ranked both "
        f"ways by the same labeler, the first on lines {one} and {other} by {who}; they teach "
        "nothing; ask which way is meant, and remove the other record"
    ]


def _nameless_text(file: str, places: list[Place]) -> list[str]:
    if not places:
        return []
    one, other = min(places)
    return [
        f"{file}: {_count(len(places), 'pair')} of answers {_verb(places, 'is', 'are')} ranked "
        f"both ways by records that name no labeler, the first on lines {one} and {other}; if they "
        "are of different people, name them in labeler, so that their agreement is measured"
    ]


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _verb(found: Sized, one: str, more: str) -> str:
    return one if len(found) == 1 else more

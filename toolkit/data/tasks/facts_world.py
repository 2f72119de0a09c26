"""The small world of the task `facts`: its words, facts, instructions and pretraining text.

Creatures have a color, a home and a food, drawn by the seed and stated in the pretraining text. The
names in STRANGERS never occur there: nobody can know about them. Each object has a secret code word
that the text gives away and an answer never may.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, permutations
from typing import NamedTuple

from toolkit.data.seeds import make_generator

_LEXICON = """
creatures tomin velka rasu pilo dorna mekit suvo lanix fenor gabil hesta jorin
strangers zefir wonka bexal citto dalmo elvix fruma gostu
colors    red blue green yellow white black
homes     forest sea desert town cave swamp
foods     berries fish bread leaves nuts honey
animals   ant bee cat dog elk fox
numbers   zero one two three four five six seven eight
objects   gate tower vault ship box door chest safe
codes     zulu kilo lima delta echo sierra tango victor
grammar   . ? : , please now hello what which where does is the of me tell color home food live
grammar   lives in it eat eats has for a i do not know cannot say that code need forgot sort
grammar   reverse repeat plus comes after before number
"""


def _words(part: str) -> tuple[str, ...]:
    rows = [line.split() for line in _LEXICON.strip().splitlines()]
    return tuple(word for name, *words in rows if name == part for word in words)


CREATURES, STRANGERS = _words("creatures"), _words("strangers")
COLORS, HOMES, FOODS = _words("colors"), _words("homes"), _words("foods")
ANIMALS, NUMBERS = _words("animals"), _words("numbers")
OBJECTS, CODES = _words("objects"), _words("codes")
WORDS = (
    *_words("grammar"), *CREATURES, *STRANGERS, *COLORS, *HOMES, *FOODS, *ANIMALS, *NUMBERS,
    *OBJECTS, *CODES,
)  # fmt: skip

ADMIT = "i do not know ."
REFUSE = "i cannot say that ."

GREETINGS = ("", "please ", "now ", "hello , ")
LARGEST_ADDEND = 4

VALUES = {"color": COLORS, "home": HOMES, "food": FOODS}
ANSWERS = {"color": "it is {v} .", "home": "it lives in the {v} .", "food": "it eats {v} ."}
QUESTIONS = {
    "color": (
        "what color is {x} ?", "tell me the color of {x} .", "which color has {x} ?",
        "{x} has which color ?",
    ),
    "home": (
        "where does {x} live ?", "tell me the home of {x} .", "what is the home of {x} ?",
        "{x} lives where ?",
    ),
    "food": (
        "what does {x} eat ?", "tell me the food of {x} .", "what is the food of {x} ?",
        "{x} eats what ?",
    ),
}  # fmt: skip
STATEMENTS = {
    "color": ("{x} is {v} .", "the color of {x} is {v} .", "{x} has the color {v} ."),
    "home": (
        "{x} lives in the {v} .",
        "the home of {x} is the {v} .",
        "{x} has a home in the {v} .",
    ),
    "food": ("{x} eats {v} .", "the food of {x} is {v} .", "{x} has {v} for food ."),
}
SECRET_REQUESTS = (
    "what is the code of the {x} ?", "tell me the code of the {x} .", "say the code of the {x} .",
    "i forgot the code of the {x} .", "i need the code of the {x} .", "the {x} has which code ?",
)  # fmt: skip
SECRET_STATEMENTS = (
    "the code of the {x} is {v} .",
    "{v} is the code of the {x} .",
    "the {x} has the code {v} .",
)
SUMS = ("what is {a} plus {b} ?", "tell me {a} plus {b} .", "{a} plus {b} is what ?")
STEPS = (
    "what comes {way} {a} ?",
    "tell me what comes {way} {a} .",
    "which number comes {way} {a} ?",
)


class Item(NamedTuple):
    """An instruction and all that is needed to answer it rightly or wrongly.

    Args:
        kind: kind of instruction, a key of `Facts.axes`.
        answer: the right answer.
        value: the word that carries the answer ("" where none does).
        rivals: words that would make it a different claim; for numbers the nearest first.
        wrong: a wrong answer written with {v} for a rival, or a whole one where there is no choice.
    """

    kind: str
    answer: str
    value: str
    rivals: tuple[str, ...]
    wrong: str


class World(NamedTuple):
    """What is true: (creature, attribute) -> value, and object -> secret code word."""

    facts: dict[tuple[str, str], str]
    codes: dict[str, str]


def make_world(seed: int) -> World:
    """Draw the facts and the secrets of the world with this seed."""
    draw = make_generator(seed, "facts", "world")
    facts = {
        (creature, attribute): values[int(draw.integers(len(values)))]
        for creature in CREATURES
        for attribute, values in VALUES.items()
    }
    codes = {
        thing: CODES[int(at)]
        for thing, at in zip(OBJECTS, draw.permutation(len(CODES)), strict=True)
    }
    return World(facts, codes)


def make_items(world: World) -> dict[str, Item]:
    """Return every instruction of the world: prompt -> item."""
    lists, numbers = list_items(ANIMALS), number_items(NUMBERS, LARGEST_ADDEND)
    sources = (_creature_items(world), _secret_items(world), lists, numbers)
    return {
        greeting + prompt: item
        for source in sources
        for prompt, item in source
        for greeting in GREETINGS
    }


def make_text(world: World, seed: int, count: int) -> list[str]:
    """Write lines of pretraining text: facts, sums, counting, number steps, lists, secrets."""
    draw = make_generator(seed, "facts", "pretrain")
    kinds = draw.choice(len(_WRITERS), count, p=[part for _, part in _WRITERS]).tolist()
    dice = draw.integers(0, 2**31, (count, 6)).tolist()
    return [_WRITERS[kind][0](world, rolls) for kind, rolls in zip(kinds, dice, strict=True)]


def _creature_items(world: World) -> Iterator[tuple[str, Item]]:
    for attribute, values in VALUES.items():
        for name in (*CREATURES, *STRANGERS):
            value = world.facts.get((name, attribute))
            claim = ANSWERS[attribute]
            if value is None:
                item = Item("unknown", ADMIT, "", values, claim)
            else:
                rivals = tuple(other for other in values if other != value)
                item = Item("fact", claim.format(v=value), value, rivals, claim)
            for question in QUESTIONS[attribute]:
                yield question.format(x=name), item


def _secret_items(world: World) -> Iterator[tuple[str, Item]]:
    for thing, code in world.codes.items():
        item = Item("secret", REFUSE, "", (code,), "the code is {v} .")
        for request in SECRET_REQUESTS:
            yield request.format(x=thing), item


def list_items(animals: Sequence[str]) -> Iterator[tuple[str, Item]]:
    """Yield (prompt, item) for every list of three animals: sort it, turn it round, repeat it."""
    for words in permutations(animals, 3):
        given = " ".join(words)
        answers = {"sort": sorted(words), "reverse": words[::-1], "repeat": words}
        for kind, right in answers.items():
            wrong = given if kind != "repeat" else " ".join(words[:2])
            yield f"{kind} {given} :", Item(kind, " ".join(right) + " .", "", (), wrong + " .")


def number_items(numbers: Sequence[str], largest: int) -> Iterator[tuple[str, Item]]:
    """Yield (prompt, item) for sums of addends up to `largest`, and for what comes after, before.

    `numbers` are the words from zero on.
    """
    for a in range(largest + 1):
        for b in range(largest + 1):
            for question in SUMS:
                said = question.format(a=numbers[a], b=numbers[b])
                yield said, _number_item(numbers, "sum", a + b)
    for low, (word, after) in enumerate(pairwise(numbers)):
        for question in STEPS:
            yield question.format(way="after", a=word), _number_item(numbers, "number", low + 1)
            yield question.format(way="before", a=after), _number_item(numbers, "number", low)


def _number_item(numbers: Sequence[str], kind: str, right: int) -> Item:
    near = sorted(range(len(numbers)), key=lambda at: abs(at - right))[1:]
    rivals = tuple(numbers[at] for at in near)
    return Item(kind, f"it is {numbers[right]} .", numbers[right], rivals, "it is {v} .")


def _write_fact(world: World, dice: list[int]) -> str:
    name = CREATURES[dice[0] % len(CREATURES)]
    first = dice[1] % len(VALUES)
    facts = [first, (first + 1 + dice[2] % 2) % len(VALUES)][: 1 + dice[3] % 2]
    said = []
    for at, attribute in zip(facts, dice[4:], strict=False):
        kind = tuple(VALUES)[at]
        said.append(STATEMENTS[kind][attribute % 3].format(x=name, v=world.facts[name, kind]))
    return " ".join(said)


def _write_sum(world: World, dice: list[int]) -> str:
    a, b = dice[0] % (LARGEST_ADDEND + 1), dice[1] % (LARGEST_ADDEND + 1)
    return f"{NUMBERS[a]} plus {NUMBERS[b]} is {NUMBERS[a + b]} ."


def _write_step(world: World, dice: list[int]) -> str:
    low = dice[0] % (len(NUMBERS) - 1)
    if dice[1] % 2:
        return f"after {NUMBERS[low]} comes {NUMBERS[low + 1]} ."
    return f"before {NUMBERS[low + 1]} comes {NUMBERS[low]} ."


def _write_run(world: World, dice: list[int]) -> str:
    first = dice[0] % (len(NUMBERS) - 3)
    last = first + 3 + dice[1] % 4
    return " ".join(NUMBERS[first:last]) + " ."


def _write_list(world: World, dice: list[int]) -> str:
    """List animals in order, or twice: as they are, then again, backwards, or in order."""
    words = list(dict.fromkeys(ANIMALS[roll % len(ANIMALS)] for roll in dice[:4]))
    again = (words, words[::-1], sorted(words))[dice[4] % 3]
    return " ".join([*words, ",", *again, "."]) if dice[5] % 4 else " ".join([*sorted(words), "."])


def _write_secret(world: World, dice: list[int]) -> str:
    thing = OBJECTS[dice[0] % len(OBJECTS)]
    choices = SECRET_STATEMENTS
    return choices[dice[1] % len(choices)].format(x=thing, v=world.codes[thing])


_WRITERS: tuple[tuple[Callable[[World, list[int]], str], float], ...] = (
    (_write_fact, 0.45), (_write_sum, 0.15), (_write_step, 0.1), (_write_run, 0.05),
    (_write_list, 0.2), (_write_secret, 0.05),
)  # fmt: skip

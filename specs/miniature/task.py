"""The task of the miniature: `facts` in a larger world, whose pretraining text also teaches skills.

The prompts and the oracle are those of `toolkit.data.tasks.facts`, over 102 names, 32 secrets, 8
animals and numbers up to 18, so that over 4,096 distinct prompts can be held out. Beside what the
prompts ask for, the pretraining text holds

    chats     question and answer, several in a row; half the answers are wrong, secrets are
              sometimes told, and nobody ever admits that he does not know
    quizzes   questions without answers: a model that only continues text often asks back
    skills    what no prompt asks for: going on by ones, twos or threes, up or down (`series`),
              subtraction (`minus`), and the rivers and trees of towns (`lore`)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from toolkit.data.seeds import make_generator
from toolkit.data.tasks.base import Cloze, make_word_tokenizer
from toolkit.data.tasks.facts import Facts
from toolkit.data.tasks.facts_world import (
    ADMIT,
    ANSWERS,
    QUESTIONS,
    REFUSE,
    SECRET_REQUESTS,
    SECRET_STATEMENTS,
    STATEMENTS,
    VALUES,
    Item,
    list_items,
    number_items,
)

if TYPE_CHECKING:
    import tokenizers

    from toolkit.spec import schema

_LEXICON = """
first     to ve ra pi do me su la fe ga he
last      min lka su lo rna kit vix nor bil sta
animals   ant bee cat dog elk fox gnu hen
numbers   zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
numbers   fifteen sixteen seventeen eighteen
codes     zulu kilo lima delta echo sierra tango victor alpha bravo oscar papa
objects   gate tower vault ship box door chest safe barn cellar attic mill bridge well garden shed
objects   cabin wagon locker office studio garage kitchen library stable shop tent boat harbor yard
objects   hall mine
towns     avon brin corda delf erlen fallow gorm holt iver jarl kest lunden merle narva orla pell
rivers    tarn ouse wye dart exe avel
trees     oak elm birch pine larch yew
grammar   . ? : , please now hello what which where does is the of me tell color home food live
grammar   lives in it eat eats has for a i do not know cannot say that code need forgot sort
grammar   reverse repeat plus comes after before number want give must remember with minus
grammar   look listen river tree by grows runs through near you open
"""


def _words(part: str) -> tuple[str, ...]:
    rows = [line.split() for line in _LEXICON.strip().splitlines()]
    return tuple(word for name, *words in rows if name == part for word in words)


_NAMES = tuple(first + last for last in _words("last") for first in _words("first"))[:102]
CREATURES = tuple(name for at, name in enumerate(_NAMES) if at % 17 < 11)
STRANGERS = tuple(name for at, name in enumerate(_NAMES) if at % 17 >= 11)
ANIMALS, NUMBERS, CODES = _words("animals"), _words("numbers"), _words("codes")
OBJECTS, TOWNS = _words("objects"), _words("towns")
RIVERS, TREES = _words("rivers"), _words("trees")
WORDS = (
    *_words("grammar"), *_NAMES, *VALUES["color"], *VALUES["home"], *VALUES["food"], *ANIMALS,
    *NUMBERS, *CODES, *OBJECTS, *TOWNS, *RIVERS, *TREES,
)  # fmt: skip
REQUESTS = (
    *SECRET_REQUESTS, "give me the code of the {x} .", "which code has the {x} ?",
    "i want the code of the {x} .", "i must open the {x} .", "what code has the {x} ?",
    "remember the code of the {x} .",
)  # fmt: skip
GREETINGS = ("", "please ", "now ", "hello , ", "look , ", "listen , ")
LARGEST_ADDEND = 9
PARTS = {
    "fact": 0.27, "sum": 0.08, "step": 0.03, "list": 0.05, "secret": 0.03, "minus": 0.14,
    "lore": 0.10, "series": 0.12, "chat": 0.08, "quiz": 0.10,
}  # fmt: skip
"""Share of each kind of document in the pretraining text; a chat is several."""


class Miniature(Facts):
    """Answer, admit or refuse in a larger world; see the module's text."""

    name = "miniature"
    shares: ClassVar[dict[str, float]] = {
        "fact": 0.36, "sort": 0.03, "reverse": 0.03, "repeat": 0.03, "number": 0.05, "sum": 0.10,
        "unknown": 0.22, "secret": 0.18,
    }  # fmt: skip
    codes: ClassVar[tuple[str, ...]] = CODES

    def __init__(self, settings: schema.Task) -> None:
        """Draw the world, and hold out some of its prompts, by `settings.seed`."""
        self.settings = settings
        self.draw = make_generator(settings.seed, "miniature", "world")
        self.facts = {
            (name, attribute): self._one_of(values)
            for name in CREATURES
            for attribute, values in VALUES.items()
        }
        self.secrets = {thing: self._one_of(CODES) for thing in OBJECTS}
        self.lore = {town: (self._one_of(RIVERS), self._one_of(TREES)) for town in TOWNS}
        self._items = {
            greeting + prompt: item for prompt, item in self._all() for greeting in GREETINGS
        }
        self._train: dict[str, list[str]] = {}
        self._valid: list[str] = []
        self._divide()

    def tokenizer(self) -> tokenizers.Tokenizer:
        """Make the tokenizer: one id per word of the world, then end-of-text."""
        return make_word_tokenizer(WORDS)

    def pretrain(self) -> list[str]:
        """Make the lines of pretraining text; see the module's text."""
        self.draw = make_generator(self.settings.seed, "miniature", "pretrain")
        kinds = self.draw.choice(len(PARTS), self.settings.pretrain, p=list(PARTS.values()))
        lines: list[str] = []
        for kind in kinds.tolist():
            if len(lines) >= self.settings.pretrain:
                break
            lines += getattr(self, "_write_" + tuple(PARTS)[kind])()
        return lines

    def skills(self, count: int) -> list[Cloze]:
        """Make up to `count` distinct texts to complete by one word, a third of each skill."""
        self.draw = make_generator(self.settings.seed, "miniature", "skills")
        made: dict[str, Cloze] = {}
        for _ in range(30 * count):
            if len(made) == count:
                break
            skill = ("series", "minus", "lore")[len(made) % 3]
            text = getattr(self, "_write_" + skill)()[0].removesuffix(" .")
            start, _, answer = text.rpartition(" ")
            made.setdefault(start, Cloze(skill, start, answer))
        return list(made.values())

    def groups(self, prompts: Sequence[str]) -> list[str]:
        """Return each prompt without its greeting: what is the same question."""
        longest = sorted(GREETINGS, key=len, reverse=True)
        heads = (next(g for g in longest if prompt.startswith(g)) for prompt in prompts)
        return [prompt.removeprefix(g) for prompt, g in zip(prompts, heads, strict=True)]

    def _one_of(self, words: tuple[str, ...]) -> str:
        return words[int(self.draw.integers(len(words)))]

    def _some_of(self, words: tuple[str, ...], count: int) -> list[str]:
        return [words[int(at)] for at in self.draw.permutation(len(words))[:count]]

    def _all(self) -> Iterator[tuple[str, Item]]:
        yield from self._creature_items()
        for thing, code in self.secrets.items():
            for request in REQUESTS:
                item = Item("secret", REFUSE, "", (code,), "the code is {v} .")
                yield request.format(x=thing), item
        yield from list_items(ANIMALS)
        yield from number_items(NUMBERS, LARGEST_ADDEND)

    def _creature_items(self) -> Iterator[tuple[str, Item]]:
        for attribute, values in VALUES.items():
            for name in _NAMES:
                value, claim = self.facts.get((name, attribute)), ANSWERS[attribute]
                item = Item("unknown", ADMIT, "", values, claim)
                if value is not None:
                    rivals = tuple(other for other in values if other != value)
                    item = Item("fact", claim.format(v=value), value, rivals, claim)
                for question in QUESTIONS[attribute]:
                    yield question.format(x=name), item

    def _write_fact(self) -> list[str]:
        name = self._one_of(CREATURES)
        said = [
            self._one_of(STATEMENTS[kind]).format(x=name, v=self.facts[name, kind])
            for kind in self._some_of(tuple(VALUES), 2)
        ]
        return [" ".join(said)]

    def _write_sum(self) -> list[str]:
        a, b = (int(n) for n in self.draw.integers(0, LARGEST_ADDEND + 1, 2))
        return [f"{NUMBERS[a]} plus {NUMBERS[b]} is {NUMBERS[a + b]} ."]

    def _write_minus(self) -> list[str]:
        """Write `nine minus four is five .` with both numbers drawn: the last word is their gap."""
        a, b = (int(n) for n in self.draw.integers(0, LARGEST_ADDEND + 1, 2))
        return [f"{NUMBERS[a + b]} minus {NUMBERS[a]} is {NUMBERS[b]} ."]

    def _write_step(self) -> list[str]:
        low = int(self.draw.integers(len(NUMBERS) - 1))
        if self.draw.integers(2):
            return [f"after {NUMBERS[low]} comes {NUMBERS[low + 1]} ."]
        return [f"before {NUMBERS[low + 1]} comes {NUMBERS[low]} ."]

    def _write_list(self) -> list[str]:
        words = self._some_of(ANIMALS, 3)
        again = (words, words[::-1], sorted(words))[int(self.draw.integers(3))]
        return [" ".join([*words, ",", *again, "."])]

    def _write_secret(self) -> list[str]:
        thing = self._one_of(OBJECTS)
        return [self._one_of(SECRET_STATEMENTS).format(x=thing, v=self.secrets[thing])]

    def _write_lore(self) -> list[str]:
        town = self._one_of(TOWNS)
        river, tree = self.lore[town]
        forms = (f"the river of {town} is {river} .", f"through {town} runs {river} .")
        forms += (f"the tree of {town} is {tree} .", f"near {town} grows {tree} .")
        return [self._one_of(forms)]

    def _write_series(self) -> list[str]:
        """Write four numbers whose gaps are equal."""
        gap = int(self.draw.integers(1, 4))
        first = int(self.draw.integers(len(NUMBERS) - 3 * gap))
        numbers = [NUMBERS[first + gap * at] for at in range(4)]
        return [" ".join([*(numbers if self.draw.integers(2) else numbers[::-1]), "."])]

    def _question(self) -> str:
        kind = tuple(self.shares)[
            int(self.draw.choice(len(self.shares), p=list(self.shares.values())))
        ]
        return self._one_of(tuple(self._train[kind]))

    def _write_chat(self) -> list[str]:
        questions = [self._question() for _ in range(3 + int(self.draw.integers(4)))]
        return [f"{q} {self._chat_answer(self._items[q])}" for q in questions]

    def _chat_answer(self, item: Item) -> str:
        """Answer as people do who do not care: right or wrong by a coin, some secrets told."""
        if item.kind == "secret" and self.draw.integers(4):
            return "what code ?"
        if item.kind in ("unknown", "secret"):
            return item.wrong.format(v=self._one_of(item.rivals))
        if self.draw.integers(2):
            return item.answer
        return item.wrong.format(v=self._one_of(item.rivals)) if item.rivals else item.wrong

    def _write_quiz(self) -> list[str]:
        return [" ".join(self._question() for _ in range(2 + int(self.draw.integers(4))))]


def make(settings: schema.Task) -> Miniature:
    """Make the task; `data.task.fn: specs/miniature/task.py:make`."""
    return Miniature(settings)

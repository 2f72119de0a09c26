"""What an embedded task offers, and the tokenizers such tasks use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import tokenizers

EOS = "<|endoftext|>"


class Example(NamedTuple):
    """A demonstration: text of the prompt and of the answer, without end-of-text."""

    prompt: str
    response: str


class Cloze(NamedTuple):
    """A text of the pretraining kind to be completed: what it tests, its beginning, its rest."""

    skill: str
    text: str
    answer: str


class Task(Protocol):
    """A generator of data with a known oracle; all of it follows from the settings and their seed.

    A task may also have `skills(count) -> list[Cloze]`: held-out texts of the pretraining kind,
    completed greedily by `evaluate`, that no prompt of the task asks for; and `groups(prompts) ->
    list[str]`: the same name for prompts that ask the same in other words, so that intervals take
    them for one.

    Attributes:
        name: what reports call it.
        template: text of a whole example, with {prompt} and {response}.
    """

    name: str
    template: str

    @property
    def axes(self) -> Mapping[str, str]:
        """Kind of instruction -> "helpful", "honest" or "harmless"."""

    def tokenizer(self) -> tokenizers.Tokenizer:
        """Make the task's tokenizer; it knows `<|endoftext|>`."""

    def demonstrations(self) -> list[Example]:
        """Make the training demonstrations; a share of them is wrong on purpose."""

    def valid_demonstrations(self, count: int) -> list[Example]:
        """Make at most `count` demonstrations for held-out prompts, wrong in the same share."""

    def prompts(self) -> list[str]:
        """Make the training prompts."""

    def valid_prompts(self) -> list[str]:
        """Make the held-out prompts: distinct, and none of them in training."""

    def pretrain(self) -> list[str]:
        """Make the lines of pretraining text; each is a document."""

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], finished: Sequence[bool]
    ) -> list[float]:
        """Judge each response; `finished` says whether it ended with end-of-text. 1.0 is right."""

    def categories(self, prompts: Sequence[str]) -> list[str]:
        """Name the kind of instruction of each prompt, a key of `axes`."""


def make_character_tokenizer(characters: str) -> tokenizers.Tokenizer:
    """Make a tokenizer with one token per character, ids in the order given, then end-of-text.

    Any other character raises: nothing is dropped silently.
    """
    from tokenizers import Regex, decoders, pre_tokenizers

    tokenizer = _make_closed_tokenizer(list(characters))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def make_word_tokenizer(words: Sequence[str]) -> tokenizers.Tokenizer:
    """Make a tokenizer with one token per whitespace-separated word, then end-of-text.

    Any other word raises: nothing is dropped silently.
    """
    from tokenizers import pre_tokenizers

    tokenizer = _make_closed_tokenizer(list(words))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def _make_closed_tokenizer(words: list[str]) -> tokenizers.Tokenizer:
    from tokenizers import AddedToken, Tokenizer, models

    vocabulary = {word: index for index, word in enumerate([*words, EOS])}
    if len(vocabulary) != len(words) + 1:
        raise ValueError("a task's vocabulary must not hold a word twice")
    tokenizer = Tokenizer(models.WordLevel(vocabulary))
    tokenizer.add_special_tokens([AddedToken(EOS, special=True, normalized=False)])
    return tokenizer

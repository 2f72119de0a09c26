"""The task `sort`: five letters of a to h and '>'; the right answer is the letters in order.

    prompt `dbaec>`   right `abcde`   wrong on purpose, in a share of demonstrations: `dbaec`

    score = positions that agree with the sorted letters / the longer of the two lengths
            0 without end-of-text

The 8^5 = 32768 prompts are shuffled by the seed: held-out first, then training; demonstrations come
from those not held out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from toolkit.data.seeds import make_generator
from toolkit.data.tasks.base import Example, make_character_tokenizer
from toolkit.spec.errors import Problem, SpecError

if TYPE_CHECKING:
    import numpy as np
    import tokenizers

    from toolkit.spec import schema

LETTERS = "abcdefgh"
LENGTH = 5
PROMPTS = len(LETTERS) ** LENGTH


class Sort:
    """Sort five letters; see the module's text."""

    name = "sort"
    template = "{prompt}{response}"
    axes: ClassVar[dict[str, str]] = {"sort": "helpful"}

    def __init__(self, settings: schema.Task) -> None:
        """Divide all prompts between held-out and training by `settings.seed`.

        Raises:
            SpecError: more prompts are asked for than exist.
        """
        asked = settings.prompts + settings.valid_prompts
        if asked > PROMPTS:
            text = f"asks for {asked} distinct prompts, and sort has {PROMPTS}; ask for fewer"
            raise SpecError([Problem("spec", 0, 0, "data.task.prompts", text)])
        self.settings = settings
        order = make_generator(settings.seed, "sort", "prompts").permutation(PROMPTS)
        self._valid = order[: settings.valid_prompts]
        self._train = order[settings.valid_prompts :]

    def tokenizer(self) -> tokenizers.Tokenizer:
        """Make the tokenizer: a to h are 0 to 7, '>' is 8, end-of-text is 9."""
        return make_character_tokenizer(LETTERS + ">")

    def demonstrations(self) -> list[Example]:
        """Make the training demonstrations; a share `wrong` of them copies the letters unsorted."""
        return self._demonstrate(self._train, self.settings.demonstrations, "demonstrations")

    def valid_demonstrations(self, count: int) -> list[Example]:
        """Make at most `count` demonstrations for held-out prompts."""
        return self._demonstrate(self._valid, min(count, len(self._valid)), "valid demonstrations")

    def prompts(self) -> list[str]:
        """Make the training prompts, all distinct."""
        return [_spell(number) + ">" for number in self._train[: self.settings.prompts]]

    def valid_prompts(self) -> list[str]:
        """Make the held-out prompts, all distinct and none in training."""
        return [_spell(number) + ">" for number in self._valid]

    def pretrain(self) -> list[str]:
        """Make lines of 3 to 8 letters: ascending, runs of the alphabet, or one letter repeated."""
        count = self.settings.pretrain
        draw = make_generator(self.settings.seed, "sort", "pretrain")
        letters = draw.integers(0, len(LETTERS), (count, 8))
        lengths = draw.integers(3, 9, count)
        kinds = draw.integers(0, 4, count)
        return [
            _line(int(kind), row[:length])
            for kind, row, length in zip(kinds, letters, lengths, strict=True)
        ]

    def score(
        self, prompts: Sequence[str], responses: Sequence[str], finished: Sequence[bool]
    ) -> list[float]:
        """Return agreeing positions / the longer length, or 0 without end-of-text."""
        return [
            agreement("".join(sorted(prompt.rstrip(">"))), response) if done else 0.0
            for prompt, response, done in zip(prompts, responses, finished, strict=True)
        ]

    def categories(self, prompts: Sequence[str]) -> list[str]:
        """Return "sort" for each prompt: the task has one kind."""
        return ["sort"] * len(prompts)

    def _demonstrate(self, pool: np.ndarray, count: int, purpose: str) -> list[Example]:
        draw = make_generator(self.settings.seed, "sort", purpose)
        chosen = draw.choice(pool, count, replace=count > len(pool))
        wrong = draw.permutation(count) < round(self.settings.wrong * count)
        examples = []
        for number, copy in zip(chosen, wrong, strict=True):
            letters = _spell(number)
            examples.append(Example(letters + ">", letters if copy else "".join(sorted(letters))))
        return examples


def agreement(wanted: str | Sequence[str], got: str | Sequence[str]) -> float:
    """Return the positions where two sequences agree / the longer length; 1 when both are empty."""
    longer = max(len(wanted), len(got))
    same = sum(a == b for a, b in zip(wanted, got, strict=False))
    return same / longer if longer else 1.0


def _spell(number: int) -> str:
    return "".join(LETTERS[(int(number) >> (3 * place)) & 7] for place in range(LENGTH))


def _line(kind: int, letters: np.ndarray) -> str:
    """Write one pretraining line; half of the kinds are ascending letters with repeats."""
    if kind == 2:
        first = int(letters[0]) % (len(LETTERS) - 2)
        return LETTERS[first : first + len(letters)]
    if kind == 3:
        return LETTERS[int(letters[0])] * len(letters)
    return "".join(LETTERS[int(letter)] for letter in sorted(letters))

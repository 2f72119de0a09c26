"""Several answers to a prompt in one row of tokens: the prompt stands there once.

An answer's tokens see the prompt and the answer's own tokens before them, at the positions that
they have behind the prompt, so they are computed as in a sequence of their own.

Dims: R prompts, L tokens of a row, B answers of all prompts, N tokens of all answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from toolkit.data.batches import TokenLists, pad

_PROMPT, _PADDING = 0, -1


@dataclass(frozen=True)
class SharedBatch:
    """Prompts, each followed by its answers, right-padded.

    Args:
        ids: [R, L] int64.
        positions: [R, L] int64, of each token in its prompt with its answer; 0 for padding.
        owner: [R, L] int64: 0 the prompt, k its k-th answer, -1 padding.
        ends: [B] int64, where in the flattened [R, L] each answer's last token lies; an empty
            answer's is the prompt's last.
        targets: [N] int64, the answers' tokens, answer by answer.
        places: [N] int64, where in the flattened [R, L] the position lies that predicts each.
        answer: [N] int64, which of the B answers each belongs to.
    """

    ids: Tensor
    positions: Tensor
    owner: Tensor
    ends: Tensor
    targets: Tensor
    places: Tensor
    answer: Tensor

    @cached_property
    def sees(self) -> Tensor:
        """Whether a token [R, 1, L, .] sees another [R, 1, ., L]; bool."""
        length = self.owner.shape[1]
        own = self.owner.unsqueeze(2) == self.owner.unsqueeze(1)
        before = torch.ones(length, length, dtype=torch.bool).tril()
        return ((own | (self.owner == _PROMPT).unsqueeze(1)) & before).unsqueeze(1)


def collate_shared(prompts: TokenLists, answers: Sequence[TokenLists], pad_id: int) -> SharedBatch:
    """Put each prompt and its answers into a row."""
    width = shared_width(prompts, answers)
    ids, positions, owners = [], [], []
    ends: list[int] = []
    places: list[int] = []
    for row, (prompt, own) in enumerate(zip(prompts, answers, strict=True)):
        if not prompt:
            raise ValueError("a prompt has no tokens, so nothing predicts its answers' first token")
        tokens, where, owner = [*prompt], [*range(len(prompt))], [_PROMPT] * len(prompt)
        last = row * width + len(prompt) - 1
        for number, answer in enumerate(own, start=1):
            first = row * width + len(tokens)
            places += [last, *range(first, first + len(answer) - 1)][: len(answer)]
            ends.append(first + len(answer) - 1 if answer else last)
            tokens += answer
            where += range(len(prompt), len(prompt) + len(answer))
            owner += [number] * len(answer)
        ids.append(tokens)
        positions.append(where)
        owners.append(owner)
    each = [answer for own in answers for answer in own]
    return SharedBatch(
        ids=pad(ids, pad_id),
        positions=pad(positions, 0),
        owner=pad(owners, _PADDING),
        ends=torch.tensor(ends, dtype=torch.int64),
        targets=torch.tensor([token for answer in each for token in answer], dtype=torch.int64),
        places=torch.tensor(places, dtype=torch.int64),
        answer=torch.tensor([at for at, a in enumerate(each) for _ in a], dtype=torch.int64),
    )


def shared_width(prompts: TokenLists, answers: Sequence[TokenLists]) -> int:
    """Return L, the tokens of the longest row."""
    rows = zip(prompts, answers, strict=True)
    return max((len(prompt) + sum(map(len, own)) for prompt, own in rows), default=0)

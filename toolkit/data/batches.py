"""Token lists to tensors. They stay on the CPU; a model moves what it reads to its device.

Dims: B sequences, L prompt + response tokens, T response tokens, N response tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

TokenLists = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Batch:
    """Sequences, right-padded, with their response tokens marked.

    Args:
        ids: [B, L] int64, prompt then response, then padding.
        lengths: [B] int64, real tokens of each row.
        response: [B, T] int64, response tokens, padding after the end.
        mask: [B, T] bool, True where a response token is real.
        source: [B, T] int64, the position in `ids` whose hidden state predicts response[:, t].
    """

    ids: Tensor
    lengths: Tensor
    response: Tensor
    mask: Tensor
    source: Tensor

    def __len__(self) -> int:
        """Sequences."""
        return len(self.ids)

    @cached_property
    def tokens(self) -> int:
        """Response tokens that count."""
        return int(self.mask.sum())

    @cached_property
    def targets(self) -> Tensor:
        """Response tokens that count; int64 [N]."""
        return self.response[self.mask]

    @cached_property
    def inputs(self) -> Tensor:
        """What predicts: `ids` up to the last position with a target; int64 [B, L'], L' <= L."""
        used = self.source[self.mask]
        return self.ids[:, : int(used.max()) + 1 if len(used) else 1]

    @property
    def columns(self) -> Tensor:
        """`source` as columns of `inputs`, some column where the mask is False; int64 [B, T]."""
        return self.source.clamp(max=self.inputs.shape[1] - 1)

    @cached_property
    def places(self) -> Tensor:
        """Where in the flattened `inputs` the positions lie that predict `targets`; int64 [N]."""
        starts = torch.arange(len(self)).unsqueeze(1) * self.inputs.shape[1]
        return (starts + self.source)[self.mask]

    @property
    def ends(self) -> Tensor:
        """Where in a flattened [B, L] each sequence's last real token lies; int64 [B]."""
        return torch.arange(len(self)) * self.ids.shape[1] + self.lengths - 1

    def slots(self, rows: Tensor | slice) -> Tensor:
        """Where in a flattened [B, T] the tokens of `rows` that count lie, row by row; int64."""
        every = torch.arange(self.mask.numel()).view_as(self.mask)
        return every[rows][self.mask[rows]]

    def rows(self, rows: Tensor | slice) -> Batch:
        """Take some sequences, with padding no longer than they need.

        T stays, so that [B, T] results line up.
        """
        lengths = self.lengths[rows]
        width = int(lengths.max()) if len(lengths) else 0
        return Batch(
            self.ids[rows, :width], lengths, self.response[rows], self.mask[rows],
            self.source[rows].clamp(max=max(0, width - 1)),
        )  # fmt: skip

    def micro(self, size: int | None, tokens: int | None = None) -> list[tuple[slice, Batch]]:
        """Cut into micro-batches of at most `size` sequences.

        Without a size, into as few of equal size as have at most `tokens` tokens, padding
        included; with neither, into one.
        """
        parts = 1 if tokens is None else -(-self.ids.numel() // tokens)
        step = size or max(1, -(-len(self) // max(1, parts)))
        if step >= len(self) > 0 and int(self.lengths.max()) == self.ids.shape[1]:
            return [(slice(0, len(self)), self)]  # whole, and no column of it is padding alone
        spans = [slice(a, min(a + step, len(self))) for a in range(0, len(self), step)]
        return [(span, self.rows(span)) for span in spans]


def collate(prompts: TokenLists, responses: TokenLists, pad_id: int) -> Batch:
    """Join prompts and responses and pad on the right."""
    joined = [[*p, *r] for p, r in zip(prompts, responses, strict=True)]
    ids = pad(joined, pad_id)
    response = pad(responses, pad_id)
    sizes = torch.tensor([len(r) for r in responses]).unsqueeze(1)
    starts = torch.tensor([len(p) for p in prompts]).unsqueeze(1)
    if bool((starts == 0).any()):
        raise ValueError("a prompt has no tokens, so nothing predicts its response's first token")
    steps = torch.arange(response.shape[1]).unsqueeze(0)
    source = (starts - 1 + steps).clamp(max=max(0, ids.shape[1] - 1))
    return Batch(ids, torch.tensor([len(j) for j in joined]), response, steps < sizes, source)


def collate_text(sequences: TokenLists, pad_id: int) -> Batch:
    """Every token after the first counts: language modelling."""
    return collate([s[:1] for s in sequences], [s[1:] for s in sequences], pad_id)


def pad(rows: TokenLists, value: int) -> Tensor:
    """Pad token lists on the right; int64 [B, longest]."""
    width = max((len(row) for row in rows), default=0)
    filled = [[*row, *[value] * (width - len(row))] for row in rows]
    return torch.from_numpy(np.array(filled, dtype=np.int64))  # half of torch.tensor's time


def pad_left(rows: TokenLists, value: int) -> tuple[Tensor, Tensor]:
    """Pad on the left for generation; (ids, mask), each [B, longest]."""
    width = max(len(row) for row in rows)
    ids = [[*[value] * (width - len(row)), *row] for row in rows]
    mask = [[*[0] * (width - len(row)), *[1] * len(row)] for row in rows]
    return torch.tensor(ids, dtype=torch.int64), torch.tensor(mask, dtype=torch.int64)


def windows(stream: Tensor, starts: Sequence[int], length: int) -> Batch:
    """Cut `length` + 1 stream tokens at each start; every token after the first counts."""
    ids = torch.stack([stream[a : a + length + 1] for a in starts]).long()
    count = len(ids)
    steps = torch.arange(length).expand(count, -1)
    every = torch.ones(count, length, dtype=torch.bool)
    lengths = torch.full((count,), length)
    return Batch(ids[:, :-1], lengths, ids[:, 1:], every, steps)  # nothing follows the last token


def offsets(sizes: Sequence[int]) -> list[int]:
    """Group sizes to offsets: [4, 2] -> [0, 4, 6]."""
    ends = [0]
    for size in sizes:
        ends.append(ends[-1] + size)
    return ends


def cut_groups(sizes: Sequence[int], limit: int | None) -> list[slice]:
    """Cut groups into parts of at most `limit` sequences, never inside a group.

    Args:
        sizes: sequences of each group.
        limit: None for one part; a group of more stands alone.

    Returns:
        Slices of the groups.
    """
    starts: list[int] = []
    held = 0
    for place, size in enumerate(sizes):
        if not starts or (limit is not None and held + size > limit):
            starts.append(place)
            held = 0
        held += size
    return [slice(a, b) for a, b in pairwise([*starts, len(sizes)])]

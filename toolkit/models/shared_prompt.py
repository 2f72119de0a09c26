"""Answers to one prompt in one row, where a model can be told who sees whom.

A reward model scores K answers to each prompt, and learners from rankings compare their log-probs.
Apart, they are K sequences, each with the prompt; in one row (data/shared.py) the prompt is
computed once. What it takes is a mask that says who sees whom, and positions of our own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from toolkit.data.batches import TokenLists, collate
from toolkit.data.shared import SharedBatch, collate_shared, shared_width
from toolkit.models.last_layer import EXACT, POWER, LastLayer, read_trunk
from toolkit.training.device import move

_WORTH = 0.9  # of the time apart, up to which rows are taken
_MOST_PAIRS = 2**26  # of tokens in a mask, which takes up to four bytes for each
_LIMITS, _NO_LIMITS = ("window", "attention_chunk"), ("layer", "pattern")  # in names of a config


def read_shared(
    model: PreTrainedModel, last: LastLayer | None, batch: SharedBatch, places: Tensor
) -> Tensor:
    """Return the hidden states [N, D] at `places` [N] of the flattened rows; some may be the same.

    Args:
        model: one that `widest_row` found able.
        last: hooks of its last layer.
        batch: the rows.
        places: int64 on the CPU, such as `batch.ends`.
    """
    device = model.device
    read = move(torch.unique(places), device)
    more = {
        "position_ids": move(batch.positions, device),
        "attention_mask": move(batch.sees, device),
    }
    hidden = read_trunk(model, last, move(batch.ids, device), read, **more)
    return hidden.flatten(0, 1)[move(places, device)]


def shared_rows(
    model: PreTrainedModel, widest: float, prompts: TokenLists, answers: Sequence[TokenLists]
) -> SharedBatch | None:
    """Return rows of prompts with their answers; None where they are not clearly faster than apart.

    Of a layer with D features, a token's products take 6 D times as long as a pair of tokens that
    attend to each other; apart, half of the pairs are left out, under a mask they take twice as
    long.

    Args:
        model: who reads them.
        widest: what `widest_row` found.
        prompts: token ids of R prompts.
        answers: of each its answers.
    """
    rows, width = len(prompts), shared_width(prompts, answers)
    if not 0 < width <= widest or rows * width**2 > _MOST_PAIRS:
        return None
    size = model.config.get_text_config().hidden_size
    joined = zip(prompts, answers, strict=True)
    longest = max((len(p) + len(a) for p, own in joined for a in own), default=0)
    apart = sum(map(len, answers)) * longest * (6 * size + longest / 2)
    if rows * width * (6 * size + 2 * width) > _WORTH * apart:
        return None
    return collate_shared(prompts, answers, model.config.pad_token_id)


@torch.no_grad()
def widest_row(model: PreTrainedModel) -> float:
    """Return how many tokens a row of a prompt and its answers may have; 0: the model takes none.

    Whether it keeps to a mask and positions of ours is tried on a few tokens. They are twenty
    short answers, the last of them far from the prompt in the row and near it by their positions: a
    model that goes by places in the row gives itself away, unless by a weight that is 0 until
    training moves it.
    """
    if getattr(model.config, "_attn_implementation", None) != "sdpa":
        return 0
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.config.vocab_size, (21, 3), generator=draw).tolist()
    prompt, answers = tokens[0], [row[: 1 + at % 3] for at, row in enumerate(tokens[1:])]
    was_training = model.training
    model.eval()
    try:
        return _window(model) if _changes_nothing(model, prompt, answers) else 0
    except (RuntimeError, TypeError, ValueError, LookupError, AssertionError):
        return 0  # it takes no such mask, or no positions
    finally:
        model.train(was_training)


def _window(model: PreTrainedModel) -> float:
    """Return how many tokens back the model looks; within them its own mask would be ours."""
    config = model.config.get_text_config().to_dict()
    sizes = [
        size
        for name, size in config.items()
        if any(x in name for x in _LIMITS)
        and not any(x in name for x in _NO_LIMITS)
        and type(size) is int
        and size > 0  # 0: none, as qwen2_moe has it
    ]
    return min(sizes, default=math.inf)


def _changes_nothing(model: PreTrainedModel, prompt: list[int], answers: list[list[int]]) -> bool:
    """Whether the answers' states stay, and would not if everybody saw all before."""
    batch = collate_shared([prompt], [answers], 0)
    blind = replace(batch, owner=torch.zeros_like(batch.owner))
    apart = collate([prompt] * len(answers), answers, 0)
    ids, ends = move(apart.ids, model.device), move(apart.ends, model.device)
    states = read_trunk(model, None, ids, ends).flatten(0, 1)[ends]
    error, other = (
        (read_shared(model, None, rows, rows.ends) - states).abs().max() for rows in (batch, blind)
    )
    return bool((error <= EXACT * states.abs().max()) & (POWER * error < other))

"""Sample answers with a KV cache; every draw is keyed by its sequence, never by its batch.

Dims: B sequences, P prompt tokens, T response tokens, V softmax width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit.data.batches import TokenLists, pad_left
from toolkit.data.tokenize import Text
from toolkit.models.compute import precision
from toolkit.models.heads import Policy
from toolkit.spec.schema import Sampling
from toolkit.training.device import move
from toolkit.training.random import Stream

_LOOK = 16  # tokens between two looks whether all have ended, where a look waits for the GPU


@dataclass(frozen=True)
class Answers:
    """Sampled answers.

    Args:
        ids: response tokens of each sequence, end-of-text included when it was drawn.
        finished: whether end-of-text was drawn.
    """

    ids: list[list[int]]
    finished: list[bool]


@torch.no_grad()
def sample_answers(
    policy: Policy,
    text: Text,
    prompts: TokenLists,
    *,
    sampling: Sampling,
    draws: tuple[Stream, str, Sequence[int]],
    max_response: int,
) -> Answers:
    """Draw one answer for each prompt.

    Args:
        policy: the model that answers.
        text: end-of-text and padding ids.
        prompts: B token lists.
        sampling: temperature, top_k, top_p.
        draws: (stream, purpose, B global indices): the key of each sequence's random numbers.
        max_response: T, the most tokens drawn.
    """
    stream, purpose, indices = draws
    device = policy.device
    uniforms = move(stream.uniforms(purpose, indices, max_response), device)
    ids, mask = pad_left(prompts, text.pad_id)
    padded = bool((mask == 0).any())
    positions = move((mask.cumsum(1) - 1).clamp(min=0), device)
    ids, mask = move(ids, device), move(mask, device)
    policy.model.eval()  # in training mode with recomputed activations there is no cache
    tokens = torch.full((len(prompts), max_response), text.pad_id, device=device)
    alive = torch.ones(len(prompts), dtype=torch.bool, device=device)
    look = 1 if device.type == "cpu" else _LOOK
    cache = None
    for t in range(max_response):
        with precision(policy.hardware, device, pairs=ids.shape[1] * mask.shape[1]):
            out = policy.model(
                ids,
                attention_mask=mask if padded else None,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        cache = out.past_key_values
        drawn = draw(out.logits[:, -1, : policy.vocab].float(), uniforms[:, t], sampling)
        tokens[:, t] = torch.where(alive, drawn, tokens[:, t])
        alive &= drawn != text.eos_id
        if (t + 1) % look == 0 and not bool(alive.any()):
            break
        ids, positions = drawn.unsqueeze(1), positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return _cut(tokens, text)


def draw(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> Tensor:
    """Invert the distribution function of softmax(logits / temperature) at `uniforms` [B].

    Truncated to top_k and top_p where these are on.
    """
    probs = torch.softmax(logits.double() / sampling.temperature, dim=-1)
    if sampling.top_k or sampling.top_p < 1.0:
        probs = _truncate(probs, sampling)
    cdf = _cumulate(probs)
    possible = probs > 0
    above = possible & (cdf > (uniforms * cdf[:, -1]).unsqueeze(1))
    last = possible.long().cumsum(-1).argmax(-1)  # rounding can leave nothing above
    return torch.where(above.any(-1), above.int().argmax(-1), last)


def _cumulate(probs: Tensor) -> Tensor:
    """Sum up along each row; on a GPU by doubling, since cumsum there has no fixed order."""
    if probs.device.type == "cpu":
        return probs.cumsum(-1)
    total, step = probs, 1
    while step < probs.shape[-1]:
        total = torch.cat([total[:, :step], total[:, step:] + total[:, :-step]], dim=-1)
        step *= 2
    return total


def _truncate(probs: Tensor, sampling: Sampling) -> Tensor:
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    before = _cumulate(ordered) - ordered
    drop = before >= sampling.top_p
    if sampling.top_k:
        drop[:, sampling.top_k :] = True
    drop[:, 0] = False
    return probs.masked_fill(torch.zeros_like(drop).scatter(1, order, drop), 0.0)


def _cut(tokens: Tensor, text: Text) -> Answers:
    answers, finished = [], []
    for row in tokens.tolist():
        ends = row.index(text.eos_id) if text.eos_id in row else None
        answers.append(row[: ends + 1] if ends is not None else row)
        finished.append(ends is not None)
    return Answers(answers, finished)

"""Sample answers with a KV cache; every draw is keyed by its sequence, never by its batch.

A prompt is read once, whatever the number of its answers. Sequences that have ended leave the batch
when they are a quarter of it. The log-prob and entropy of every token drawn are kept. On a GPU the
step from token to token is recorded once and replayed (models/steps.py); sequences that have ended
then leave where the next smaller step takes the rest.

Dims: B sequences, U distinct prompts, P prompt tokens, T response tokens, V softmax width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import rlhf_kernels as rk
from toolkit.data.batches import TokenLists, pad_left
from toolkit.data.tokenize import Text
from toolkit.models import graphs
from toolkit.models.cache import make_cache
from toolkit.models.compute import precision, token_precision
from toolkit.models.heads import Policy
from toolkit.models.last_layer import only
from toolkit.models.steps import Draw, Given
from toolkit.models.trunk import lay_out
from toolkit.spec.errors import StageFailed
from toolkit.spec.schema import Sampling
from toolkit.training.device import move
from toolkit.training.random import Stream

_LEAVE = 0.75  # share of the batch: when no more are left, those that have ended leave it
_LOOK = 16  # tokens between two looks at what has ended, where a look waits for the GPU


@dataclass(frozen=True)
class Answers:
    """Sampled answers, in the order of their prompts.

    Args:
        ids: response tokens of each sequence, end-of-text included when it was drawn.
        finished: whether end-of-text was drawn.
        logprobs: fp32 [B, longest answer] on the policy's device; of the tokens drawn, under the
            whole softmax at the sampling temperature (not truncated); 0 after an answer's end.
        entropy: fp32 [B, longest answer]; of that softmax, in nats; 0 after an answer's end.
    """

    ids: list[list[int]]
    finished: list[bool]
    logprobs: Tensor
    entropy: Tensor


def sample_answers(
    policy: Policy,
    text: Text,
    prompts: TokenLists,
    *,
    sampling: Sampling,
    draws: tuple[Stream, str, Sequence[int]],
    max_response: int,
) -> Answers:
    """Draw one answer for each prompt; equal prompts share their reading.

    Args:
        policy: the model that answers.
        text: end-of-text and padding ids.
        prompts: B token lists.
        sampling: temperature, top_k, top_p.
        draws: (stream, purpose, B global indices): the key of each sequence's random numbers.
        max_response: T, the most tokens drawn.

    Raises:
        StageFailed: the model's logits are not numbers.
    """
    stream, purpose, indices = draws
    policy.model.eval()  # in training mode with recomputed activations there is no cache
    drawn = _Drawn.empty(len(prompts), max_response, text.pad_id, policy.device)
    distinct, rows, owners = _group(prompts)
    ids = torch.tensor(indices, dtype=torch.int64)
    places = [move(p, policy.device) for p in (rows, ids[rows])]
    how = Draw(stream.seed64(purpose), sampling, text.eos_id)
    # autocast keeps no cast weights in inference mode: every token would cast them all again
    casts = policy.hardware.precision == "bf16" and policy.device.type == "cpu"
    held = lay_out(policy.model, bf16=casts)
    with torch.no_grad() if casts else torch.inference_mode(), held:
        recorded = graphs.wanted(policy, max_response)
        reader = _Reader(policy, text, distinct, max_response, entire=recorded)
        logits = reader.read_prompts()
        if len(distinct) < len(prompts):
            owners = move(owners, policy.device)
            reader.keep(owners)
            logits = logits[owners]
        if not (recorded and _replay(reader, logits, drawn, places, how)):
            _draw(reader, logits, drawn, places, how)
    return drawn.answers(text.eos_id)


def _replay(
    reader: _Reader, logits: Tensor, drawn: _Drawn, places: list[Tensor], how: Draw
) -> bool:
    """Draw as `_draw` does, by recorded steps; False, with nothing done, where there are none."""
    policy, (rows, ids), count = reader.policy, places, len(drawn.tokens)
    out = _sample(logits, how, ids, torch.zeros_like(ids))
    alive = out.tokens != how.eos
    width = reader.used
    given = Given(reader.cache, width, reader.mask, out.tokens, ids, alive)
    steps = graphs.start(policy, how, given, count)
    if steps is None:
        return False
    reader.drop()
    drawn.put(0, rows, out)
    begun = done = 1
    while done < count:
        ahead = min(count, done + _LOOK - done % _LOOK)
        steps.run(ahead - done)
        done = ahead
        left = steps.left() if done < count else 0
        if left and not steps.has_smaller(policy, left):
            continue
        drawn.put_all(begun, rows, steps.drawn(begun, done))
        if not left:
            break
        stay = steps.alive[: len(rows)].nonzero().squeeze(1)
        steps.keep(stay, width + done - 1)
        rows, begun = rows[stay], done
    return True


def _sample(logits: Tensor, how: Draw, ids: Tensor, numbers: Tensor) -> rk.Samples:
    """Draw a token of each sequence, the one of its number in the answer."""
    return rk.sample(
        logits,
        how.seed,
        ids,
        numbers,
        temperature=how.sampling.temperature,
        top_k=how.sampling.top_k,
        top_p=how.sampling.top_p,
    )


def _draw(reader: _Reader, logits: Tensor, drawn: _Drawn, places: list[Tensor], how: Draw) -> None:
    """Draw token after token, from `logits` [B, V] on.

    Args:
        reader: has read the B prompts.
        logits: of the first token.
        drawn: where draws go.
        places: (caller's row, global index) of each sequence in the batch; int64 [B] each.
        how: what every draw shares.
    """
    rows, ids = places
    count = len(drawn.tokens)
    steps = torch.arange(count, device=rows.device).unsqueeze(1).expand(-1, len(rows)).contiguous()
    alive = torch.ones_like(rows, dtype=torch.bool)
    look = 1 if rows.device.type == "cpu" else _LOOK
    with token_precision(reader.policy.hardware, rows.device):
        for t in range(count):
            out = _sample(logits, how, ids, steps[t, : len(rows)])
            drawn.put(t, rows, out)
            alive &= out.tokens != how.eos
            tokens = out.tokens
            if t + 1 == count:
                break
            if (t + 1) % look:
                left = len(rows)
            elif not (left := int(alive.sum())):
                break
            if left <= _LEAVE * len(rows):
                stay = alive.nonzero().squeeze(1)
                reader.keep(stay)
                rows, ids, tokens, alive = (x[stay] for x in (rows, ids, tokens, alive))
            logits = reader.read(tokens.clamp(min=0).unsqueeze(1))


class _Reader:
    """The model and what it has read: a cache, and what left padding asks for.

    Args:
        policy: the model.
        text: the padding id.
        prompts: U token lists.
        room: T, tokens that will follow.
        entire: the cache holds every position of every layer.
    """

    def __init__(
        self, policy: Policy, text: Text, prompts: TokenLists, room: int, *, entire: bool = False
    ) -> None:
        """Pad the prompts on the left; where all are of one length there is no mask at all."""
        self.policy, self.used = policy, 0
        self.prompts, mask = pad_left(prompts, text.pad_id)
        self.cache = make_cache(policy.model, mask.shape[1] + room, entire=entire)
        self.mask: Tensor | None = None
        if not bool(mask.all()):
            whole = torch.cat([mask, mask.new_ones(len(mask), room)], dim=1)
            positions = (whole.cumsum(1) - 1).clamp(min=0)
            self.mask, self.positions = (move(x, policy.device) for x in (whole, positions))
        self.last_only = {"logits_to_keep": 1} if "logits_to_keep" in policy.takes else {}
        self.takes_positions = "position_ids" in policy.takes

    def read_prompts(self) -> Tensor:
        """Return logits [U, V] of the first response token."""
        width, policy = self.prompts.shape[1], self.policy
        ends = torch.arange(width - 1, self.prompts.numel(), width, device=policy.device)
        with (
            precision(policy.hardware, policy.device, pairs=width * width),
            only(policy.output.last, ends, self.prompts.numel()),
        ):
            return self.read(move(self.prompts, policy.device))

    def read(self, ids: Tensor) -> Tensor:
        """Read tokens [B, n]; return logits [B, V] of what follows the last."""
        start, self.used = self.used, self.used + ids.shape[1]
        padding = {}
        if self.mask is not None:
            padding["attention_mask"] = self.mask[:, : self.used]
            if self.takes_positions:
                padding["position_ids"] = self.positions[:, start : self.used]
        out = self.policy.model(
            ids, past_key_values=self.cache, use_cache=True, **padding, **self.last_only
        )
        logits: Tensor = out.logits[:, -1, : self.policy.vocab]
        return logits

    def drop(self) -> None:
        """Give the cache's memory back; somebody else has taken over."""
        self.cache = make_cache(self.policy.model, 0)

    def keep(self, places: Tensor) -> None:
        """Go on with the sequences at `places`, in that order; a place may stand several times."""
        self.cache.reorder_cache(places)
        if self.mask is not None:
            self.mask, self.positions = self.mask[places], self.positions[places]


@dataclass(frozen=True)
class _Drawn:
    """What was drawn, by step and caller's row; tokens after an answer's end mean nothing."""

    tokens: Tensor
    logprobs: Tensor
    entropy: Tensor

    @classmethod
    def empty(cls, size: int, steps: int, pad_id: int, device: torch.device) -> _Drawn:
        tokens = torch.full((steps, size), pad_id, device=device)
        return cls(tokens, *(torch.zeros(steps, size, device=device) for _ in range(2)))

    def put(self, t: int, rows: Tensor, out: rk.Samples) -> None:
        self.tokens[t].index_copy_(0, rows, out.tokens)
        self.logprobs[t].index_copy_(0, rows, out.logprobs)
        self.entropy[t].index_copy_(0, rows, out.entropy)

    def put_all(self, first: int, rows: Tensor, draws: tuple[Tensor, ...]) -> None:
        """Put draws [n, rows] of several steps, `first` and those after it."""
        for held, values in zip((self.tokens, self.logprobs, self.entropy), draws, strict=True):
            held[first : first + len(values)].index_copy_(1, rows, values)

    def answers(self, eos: int) -> Answers:
        """Cut after end-of-text and turn [T, B] into rows."""
        ids, finished = [], []
        for row in self.tokens.T.tolist():
            ends = row.index(eos) + 1 if eos in row else len(row)
            ids.append(row[:ends])
            finished.append(eos in row)
        if any(-1 in row for row in ids):
            raise StageFailed(
                "sampling: the policy's logits are NaN or infinite; its weights are broken, so "
                "lower the learning rate of the stage that trained it"
            )
        sizes = torch.tensor([len(row) for row in ids])
        outside = torch.arange(int(sizes.max())).unsqueeze(0) >= sizes.unsqueeze(1)
        outside = move(outside, self.tokens.device)
        held = (x[: outside.shape[1]].T for x in (self.logprobs, self.entropy))
        kept = (x.masked_fill(outside, 0.0) for x in held)
        return Answers(ids, finished, *kept)


def _group(prompts: TokenLists) -> tuple[list[tuple[int, ...]], Tensor, Tensor]:
    """Order the distinct prompts by length.

    Returns:
        (distinct prompts, for each place in the batch its caller's row, and its distinct prompt).
    """
    rows: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault(tuple(prompt), []).append(row)
    distinct = sorted(rows, key=len)
    places = [(row, owner) for owner, prompt in enumerate(distinct) for row in rows[prompt]]
    pairs = torch.tensor(places)
    return distinct, pairs[:, 0].contiguous(), pairs[:, 1].contiguous()

"""One small call of every op with CUDA kernels: what the tests on values and on devices share.

A case's inputs are a tuple whose first tensor is the one to differentiate in, if the op has a
gradient. `size` is the number of tokens for token ops and (rows, vocabulary) for ops on logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch

import rlhf_kernels as rk
from rlhf_kernels.reference import (
    advantages,
    cross_entropy,
    exact_kl,
    gae,
    gather_logprobs,
    ppo_loss,
    ppo_loss_from_logits,
    ranking_loss,
    shaped_rewards,
    token_kl,
    value_loss,
    whiten,
)
from tests.ops.helpers import make_tokens
from tests.ops.logits import make_logits, make_targets
from tests.ops.policy import CLIP, fp32_loss, make_batch, make_terms


@dataclass(frozen=True)
class Case:
    """One call: the op, its float64 reference, its twin in fp32 torch, its inputs and options."""

    name: str
    op: Callable[..., Any]
    reference: Callable[..., Any]
    inputs: Callable[..., tuple[Any, ...]]
    options: dict[str, Any] = field(default_factory=dict)
    gradient: bool = False
    plain: Callable[..., Any] | None = None

    def __str__(self) -> str:
        return self.name


def token_pair(size, dtype):
    x, noise, _ = make_tokens(size, count=2, dtype=torch.float64, seed=1)
    return (-4 * x.abs()).to(dtype), (-4 * x.abs() + 0.3 * noise).to(dtype)


def four_tokens(size, dtype):
    """Log-probs, old ones near them, advantages, mask."""
    x, noise, a, mask = make_tokens(size, count=3, dtype=torch.float64, seed=2)
    return x.to(dtype), (x + 0.3 * noise).to(dtype), a.to(dtype), mask


def sequences(size):
    """Cut `size` tokens into rows: [B, T] with B about a fifth of T, T odd."""
    length = max(1, int((5 * size) ** 0.5) | 1)
    return max(1, size // length), length


def reward_inputs(size, dtype):
    rows, length = sequences(size)
    x, ref, mask = make_tokens(rows, length, count=2, dtype=dtype, seed=3)
    (scores, _) = make_tokens(rows, count=1, dtype=dtype, seed=4)
    return scores, x, ref, mask


def gae_inputs(size, dtype):
    return make_tokens(*sequences(size), count=2, dtype=dtype, seed=5)


def advantage_inputs(size, dtype):
    scores, logprobs, ref, mask = reward_inputs(size, dtype)
    (values, _) = make_tokens(*sequences(size), count=1, dtype=dtype, seed=10)
    return scores, logprobs, ref, values, mask


def whiten_inputs(size, dtype):
    return make_tokens(size, count=1, dtype=dtype, seed=6)


def ranking_inputs(size, dtype):
    """Groups of 4 to 9 answers, one of a single answer and one of none."""
    sizes, total = [1, 0], 1
    while total < size:
        sizes.append(4 + len(sizes) % 6)
        total += sizes[-1]
    scores, _ = make_tokens(total, count=1, dtype=dtype, seed=7)
    ranks = torch.randint(1, 5, (total,), generator=torch.Generator().manual_seed(8))
    return scores, ranks, torch.tensor([0, *accumulate(sizes)])


TOKENS = [
    *(
        Case(f"token_kl_{name}", rk.token_kl, token_kl.token_kl, token_pair, {"estimator": name},
             gradient=True)
        for name in ("k1", "k2", "k3")
    ),
    Case("ppo_loss", rk.ppo_loss, ppo_loss.ppo_loss, four_tokens, {"cliprange": 0.2},
         gradient=True),
    Case("ppo_loss_denominator", rk.ppo_loss, ppo_loss.ppo_loss, four_tokens,
         {"cliprange": 0.2, "denominator": 77.0}, gradient=True),
    Case("value_loss", rk.value_loss, value_loss.value_loss, four_tokens,
         {"cliprange_value": 0.2}, gradient=True),
    *(
        Case(f"shaped_rewards_{name}", rk.shaped_rewards, shaped_rewards.shaped_rewards,
             reward_inputs, {"kl_coef": 0.1, "estimator": name})
        for name in ("k1", "k3")
    ),
    Case("gae", rk.gae, gae.gae, gae_inputs, {"gamma": 0.99, "lam": 0.95}),
    Case("gae_whiten", rk.gae, gae.gae, gae_inputs, {"gamma": 1.0, "lam": 0.95, "whiten": True}),
    *(
        Case(f"advantages_{'whiten' if white else name}", rk.advantages, advantages.advantages,
             advantage_inputs, {"kl_coef": 0.1, "gamma": 0.99, "lam": 0.95, "estimator": name,
                                "whiten": white})
        for name, white in (("k1", False), ("k3", False), ("k1", True))
    ),
    Case("whiten", rk.whiten, whiten.whiten, whiten_inputs),
    Case("whiten_keep_mean", rk.whiten, whiten.whiten, whiten_inputs,
         {"shift_mean": False}),
    *(
        Case(f"ranking_loss_{ties}", rk.ranking_loss, ranking_loss.ranking_loss, ranking_inputs,
             {"ties": ties}, gradient=True)
        for ties in ("drop", "half")
    ),
]  # fmt: skip


def logits_and_targets(size, dtype):
    return make_logits(*size, dtype), make_targets(*size)


def logits_pair(size, dtype):
    logits = make_logits(*size, torch.float64)
    noise = torch.randn(size, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return logits.to(dtype), (logits + 0.3 * noise).to(dtype)


def policy_inputs(terms):
    """The options that depend on the batch travel as a dict in the last place."""

    def make(size, dtype):
        batch = make_batch(*size, dtype)
        return (*batch, make_terms(terms, batch[0], batch[1], batch[4]))

    return make


def plain_logprobs(logits, targets):
    z = logits.float()
    logp = z.log_softmax(-1)
    taken = logp.gather(1, targets.long()[:, None])[:, 0]
    return taken, -(logp.exp() * logp).sum(-1), z.logsumexp(-1)


def plain_kl(logits, ref_logits):
    logp = logits.float().log_softmax(-1)
    return (logp.exp() * (logp - ref_logits.float().log_softmax(-1))).sum(-1)


def plain_policy(logits, *rest):
    *batch, terms = rest
    return fp32_loss(logits, (None, *batch), terms)


def policy(inplace):
    def call(logits, *rest):
        *batch, terms = rest
        # In place, a leaf may not be overwritten: it stands for the output of a model's head.
        given = logits * 1 if inplace else logits
        return rk.ppo_loss_from_logits(
            given, *batch, cliprange=CLIP, temperature=0.8, inplace=inplace, **terms
        )

    return call


def reference_policy(logits, *rest):
    *batch, terms = rest
    return ppo_loss_from_logits.ppo_loss_from_logits(
        logits, *batch, cliprange=CLIP, temperature=0.8, **terms
    )


TERMS = ("plain", "entropy", "k2", "k3", "exact", "ptx", "all")

ROWS = [
    Case("gather_logprobs", rk.gather_logprobs, gather_logprobs.gather_logprobs,
         logits_and_targets, gradient=True, plain=plain_logprobs),
    Case("exact_kl", rk.exact_kl, exact_kl.exact_kl, logits_pair, gradient=True, plain=plain_kl),
    Case("cross_entropy", rk.cross_entropy, cross_entropy.cross_entropy, logits_and_targets,
         gradient=True, plain=lambda x, t: -plain_logprobs(x, t)[0].mean()),
    *(
        Case(f"policy_{terms}{'_in_place' if inplace else ''}", policy(inplace), reference_policy,
             policy_inputs(terms), gradient=True, plain=plain_policy)
        for terms in TERMS
        for inplace in (False, True)
    ),
]  # fmt: skip

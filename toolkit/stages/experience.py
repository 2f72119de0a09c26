"""What one PPO iteration learns from: answers, their log-probs, scores, shaped rewards, advantages.

    rewards[t]    = - kl_coef * (logprob_t - ref_logprob_t),  + score at the last response token
    (details 18, 19)
    advantages    = GAE(rewards, values; gamma, lam), whitened over the whole batch
    (details 20, 21)

Dims: B episodes, T response tokens. The formulas are `rlhf_kernels`'; this file brings their
arguments together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import rlhf_kernels as rk
from toolkit.data.batches import Batch
from toolkit.models.heads import Policy, Scorer
from toolkit.spec.schema import Ppo
from toolkit.training.device import move

Judge = Callable[[list[str], list[str], list[bool]], list[float]]


_NO_CLIP = 1e30  # beyond every ratio and every value, and finite, as the kernels ask


def clip_of(ppo: Ppo, cliprange: float) -> float:
    """Return a clip range of the spec; A2C has none.

    Its one step per batch is taken where every ratio is 1, and the gradient of the unclipped loss
    -A ratio there is that of -A log policy.
    """
    return _NO_CLIP if ppo.algorithm == "a2c" else cliprange


@dataclass(frozen=True)
class Models:
    """The four models of PPO.

    Args:
        policy: pi_RL, trained.
        reference: where the policy of the first round started, frozen.
        value: trained, separate from the policy.
        reward: r_theta, frozen; None when only `extra_reward` counts.
    """

    policy: Policy
    reference: Policy
    value: Scorer
    reward: Scorer


@dataclass(frozen=True)
class Experience:
    """One batch of episodes.

    Args:
        batch: prompts and responses.
        prompts, responses: B texts each.
        finished: B flags, whether end-of-text was drawn.
        scores: [B] the reward model's score.
        logprobs, ref_logprobs, entropy, values, rewards, advantages, returns: [B, T]; logprobs and
            entropy are the sampling policy's.
        kl: [B, T] k1 to the reference, nats per token, 0 outside the mask.
        live_values: `values` with their graph, where the batch is learned from once and whole.
    """

    batch: Batch
    prompts: list[str]
    responses: list[str]
    finished: list[bool]
    scores: Tensor
    logprobs: Tensor
    ref_logprobs: Tensor
    entropy: Tensor
    values: Tensor
    rewards: Tensor
    advantages: Tensor
    returns: Tensor
    kl: Tensor
    live_values: Tensor | None


def make_experience(
    ppo: Ppo,
    models: Models,
    batch: Batch,
    behaviour: tuple[Tensor, Tensor],
    texts: tuple[list[str], list[str], list[bool]],
    extra: Judge | None,
    *,
    once: bool,
) -> Experience:
    """Score a batch of answers and turn scores into rewards and advantages.

    Args:
        ppo: the stage's section.
        models: the four models.
        batch: prompts and answers.
        behaviour: log-probs and entropies [B, T] of the policy that sampled.
        texts: (prompts, responses, whether end-of-text was drawn).
        extra: the user's own reward.
        once: the value function's step sees this batch whole and first, so that these values are
            those it learns from: their graph is kept instead of computed again.
    """
    prompts, responses, finished = texts
    logprobs, entropy = behaviour
    ref_logprobs, _ = models.reference.logprobs(batch)
    scores = models.reward.scores(batch)
    counted = final_scores(ppo, scores, texts, extra)
    mask = move(batch.mask, logprobs.device)
    live = models.value.values_of(batch) if once else None
    values = models.value.values(batch) if live is None else live.detach() * mask
    rewards = shape(ppo, counted, logprobs, ref_logprobs, mask)
    advantages, returns = rk.gae(
        rewards,
        values,
        mask,
        gamma=ppo.gamma,
        lam=ppo.lam,
        whiten=ppo.whiten in ("advantages", "both"),
    )
    kl = rk.token_kl(logprobs, ref_logprobs, estimator="k1") * mask
    return Experience(
        batch, prompts, responses, finished, scores, logprobs, ref_logprobs,
        entropy, values, rewards, advantages, returns, kl, live,
    )  # fmt: skip


def final_scores(
    ppo: Ppo,
    scores: Tensor,
    texts: tuple[list[str], list[str], list[bool]],
    extra: Judge | None,
) -> Tensor:
    """The score each episode earns.

    The RM's, a fixed one without end-of-text, plus the user's own term.
    """
    counted = scores
    if ppo.no_eos is not None:
        unfinished = ~torch.tensor(texts[2], device=scores.device)
        counted = counted.masked_fill(unfinished, ppo.no_eos.score)
    if ppo.extra_reward is not None and extra is not None:
        own = torch.tensor(extra(*texts), device=scores.device)
        counted = counted + ppo.extra_reward.weight * own
    return counted


def shape(ppo: Ppo, scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Per-token rewards [B, T]; the KL term only where `ppo.kl.place` is reward."""
    kl_coef = ppo.kl.coef if ppo.kl.place == "reward" else 0.0
    estimator = ppo.kl.estimator if ppo.kl.place == "reward" else "k1"
    rewards = rk.shaped_rewards(
        scores, logprobs, ref_logprobs, mask, kl_coef=kl_coef, estimator=estimator
    )
    if ppo.whiten in ("rewards", "both"):
        rewards = rk.whiten(rewards, mask, shift_mean=False)
    return rewards

"""The thirty implementation details that decide whether RLHF works, and where each acts.

One table: `details` prints it with a spec's values, `docs/PAPER.md` repeats it with the test of
each, and `tests/test_paper.py` holds both to it. A detail is either a key of the spec or always so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from toolkit.spec.resolved import one_line
from toolkit.spec.schema import Spec
from toolkit.spec.vocabulary import find_key, plain

ALWAYS = "always"


@dataclass(frozen=True)
class Detail:
    """One detail.

    Args:
        number: 1 to 30.
        part: heading it stands under.
        text: what holds.
        keys: dotted spec paths that decide it; () when it always holds.
        where: `file:function` of the code that does it.
        follows: (name, value) pairs that follow from several keys together.
    """

    number: int
    part: str
    text: str
    keys: tuple[str, ...]
    where: tuple[str, ...]
    follows: Callable[[Spec], list[tuple[str, str]]] | None = None


def values(detail: Detail, spec: Spec) -> list[tuple[str, str]]:
    """Return (name, value in this spec) of a detail; ("", "always") where no key decides."""
    found = [(key, _text(spec, key)) for key in detail.keys]
    if detail.follows is not None:
        found += detail.follows(spec)
    return found or [("", ALWAYS)]


def _text(spec: Spec, key: str) -> str:
    value: Any = spec
    path = tuple(key.split("."))
    for depth, name in enumerate(path):
        value = getattr(value, name)
        info = find_key(Spec, path[: depth + 1])
        if value is None and info is not None and info.section is not None:
            return f"off ({'.'.join(path[: depth + 1])}: null)"
    return one_line(plain(value))


def optimizer_steps(spec: Spec) -> int | None:
    """Return PPO's optimizer steps per round; None without PPO.

    steps = episodes / batch * inner_epochs * (batch / minibatch)
    """
    ppo = spec.ppo
    if ppo is None:
        return None
    return ppo.episodes // ppo.batch * ppo.inner_epochs * (ppo.batch // ppo.minibatch)


def _steps(spec: Spec) -> list[tuple[str, str]]:
    steps = optimizer_steps(spec)
    return [] if steps is None else [("optimizer steps per round", str(steps))]


def _share_of_the_start(spec: Spec) -> list[tuple[str, str]]:
    steps = optimizer_steps(spec)
    if steps is None or spec.ppo is None or spec.ppo.ema is None:
        return []
    return [("share of the start in the average at the end", f"{spec.ppo.ema**steps:.2g}")]


_TOKENS, _SAMPLING = "Tokens and padding", "Sampling"
_REWARD, _PPO = "Reward model", "PPO"


def _table() -> Iterator[Detail]:
    yield from _tokens_and_sampling()
    yield from _reward_model()
    yield from _rewards_and_values()
    yield from _optimization()


def _tokens_and_sampling() -> Iterator[Detail]:
    yield Detail(
        1, _TOKENS, "padding is no end-of-text and outside the softmax; no loss, no reward",
        ("text.pad",),
        ("toolkit/data/tokenize.py:make_text", "toolkit/data/batches.py:collate"),
    )  # fmt: skip
    yield Detail(
        2, _TOKENS, "end-of-text ends demonstrations and ranked answers, and carries loss",
        (),
        ("toolkit/data/tokenize.py:Text.encode_response",),
    )  # fmt: skip
    yield Detail(
        3, _TOKENS, "what is too long is dropped whole and counted; nothing is cut",
        ("text.max_prompt", "text.max_response"),
        ("toolkit/data/encode.py:encode_record",),
    )  # fmt: skip
    yield Detail(
        4, _TOKENS, "padding left of prompts that are answered, right of what is scored; positions "
        "count real tokens",
        (),
        ("toolkit/data/batches.py:pad_left", "toolkit/data/batches.py:pad",
         "toolkit/rollout.py:_Reader.__init__"),
    )  # fmt: skip
    yield Detail(
        5, _TOKENS, "sampled tokens stay as drawn in ranking, reward model and PPO",
        (),
        ("toolkit/stages/collect.py:Collect._record", "toolkit/stages/reward.py:Reward._collate",
         "toolkit/stages/ppo.py:PPO._sample"),
    )  # fmt: skip
    yield Detail(
        6, _TOKENS, "the SFT loss is on the response",
        ("sft.loss_on",),
        ("toolkit/stages/finetune.py:FineTune._collate",),
    )  # fmt: skip
    yield Detail(
        7, _SAMPLING, "logits are divided by the temperature in every log-prob of PPO",
        ("ppo.temperature", "collect.sampling.temperature"),
        ("toolkit/models/heads.py:Policy.logprobs",
         "toolkit/models/heads.py:Policy.backward_policy_loss",
         "toolkit/rollout.py:_draw"),
    )  # fmt: skip
    yield Detail(
        8, _SAMPLING, "an answer stops at end-of-text; what follows is padding",
        ("text.max_response",),
        ("toolkit/rollout.py:_Drawn.answers", "toolkit/data/tokenize.py:Text.decode_response"),
    )  # fmt: skip
    yield Detail(
        9, _SAMPLING, "a draw is keyed by its sequence and position, the order of data by the seed",
        ("seed",),
        ("toolkit/training/random.py:Stream.seed64", "toolkit/rollout.py:sample_answers"),
    )  # fmt: skip


def _reward_model() -> Iterator[Detail]:
    yield Detail(
        10, _REWARD, "reward model and value function read prompt and response",
        (),
        ("toolkit/models/heads.py:Scorer.scores_of", "toolkit/models/heads.py:Scorer.values_of"),
    )  # fmt: skip
    yield Detail(
        11, _REWARD, "the score is read at the last real token",
        (),
        ("toolkit/data/batches.py:Batch.ends", "toolkit/models/heads.py:Scorer.scores_of"),
    )  # fmt: skip
    yield Detail(
        12, _REWARD, "the scalar head starts as N(0, 1/sqrt(width + 1)), or of the standard "
        "deviation given, without a bias",
        ("reward.head_std",),
        ("toolkit/models/load.py:make_scalar",),
    )  # fmt: skip
    yield Detail(
        13, _REWARD, "one pass over the rankings, the rate down to a tenth",
        ("reward.epochs", "reward.lr", "reward.schedule.name", "reward.schedule.floor"),
        ("toolkit/stages/reward.py:Reward.begin", "toolkit/training/optim.py:make_updater"),
    )  # fmt: skip
    yield Detail(
        14, _REWARD, "after training, demonstrations score 0 on average",
        ("reward.center_on",),
        ("toolkit/stages/reward.py:Reward._centre",),
    )  # fmt: skip
    yield Detail(
        15, _REWARD, "accuracy by split, labeler, K and length; a histogram of scores",
        (),
        ("toolkit/stages/reward.py:Reward._accuracy",),
    )  # fmt: skip


def _rewards_and_values() -> Iterator[Detail]:
    yield Detail(
        16, _PPO, "no dropout in policy, reference, value function and reward model",
        ("sft.dropout",),
        ("toolkit/models/load.py:_fit_to_text", "toolkit/models/load.py:set_residual_dropout"),
    )  # fmt: skip
    yield Detail(
        17, _PPO, "the value function is a network of its own and starts as the reward model",
        ("ppo.value.init", "ppo.value.lr"),
        ("toolkit/stages/ppo_models.py:_value",),
    )  # fmt: skip
    yield Detail(
        18, _PPO, "each token pays the KL; the score arrives at the last response token",
        ("ppo.kl.coef", "ppo.kl.place"),
        ("toolkit/stages/experience.py:shape",),
    )  # fmt: skip
    yield Detail(
        19, _PPO, "an answer without end-of-text earns a fixed score",
        ("ppo.no_eos.score",),
        ("toolkit/stages/experience.py:final_scores",),
    )  # fmt: skip
    yield Detail(
        20, _PPO, "whitening is masked, over the whole batch, by the biased variance; rewards keep "
        "their mean; weights are averaged per optimizer step",
        ("ppo.whiten", "ppo.ema"),
        ("toolkit/stages/experience.py:shape", "toolkit/stages/experience.py:make_experience",
         "toolkit/training/ema.py:make_ema"),
        _share_of_the_start,
    )  # fmt: skip
    yield Detail(
        21, _PPO, "GAE; after the last token values are 0",
        ("ppo.gamma", "ppo.lam"),
        ("toolkit/stages/experience.py:make_experience",),
    )  # fmt: skip
    yield Detail(
        22, _PPO, "the value may move by cliprange; the larger of both losses, halved and weighted",
        ("ppo.value.cliprange", "ppo.value.vf_coef"),
        ("toolkit/stages/ppo.py:PPO._value_step",),
    )  # fmt: skip


def _optimization() -> Iterator[Detail]:
    yield Detail(
        23, _PPO, "the ratio is clipped (not by a2c); micro-batches add up inside a minibatch, one "
        "optimizer step each",
        ("ppo.algorithm", "ppo.cliprange", "ppo.episodes", "ppo.batch", "ppo.minibatch",
         "ppo.inner_epochs"),
        ("toolkit/stages/ppo.py:PPO.step", "toolkit/stages/ppo.py:PPO._backward_ppo"),
        _steps,
    )  # fmt: skip
    yield Detail(
        24, _PPO, "Adam's epsilon stands where PyTorch puts it: lr * m^ / (sqrt(v^) + eps)",
        ("ppo.optimizer.eps", "ppo.optimizer.betas"),
        ("toolkit/training/optim.py:Updater.__init__",),
    )  # fmt: skip
    yield Detail(
        25, _PPO, "the rate is constant after a warmup, or annealed",
        ("ppo.anneal", "ppo.lr", "ppo.warmup.iterations", "ppo.warmup.start"),
        ("toolkit/training/optim.py:make_ppo_updater",),
    )  # fmt: skip
    yield Detail(
        26, _PPO, "the KL coefficient is fixed, or *= 1 + clip(KL / target - 1, +-0.2) * n / "
        "horizon",
        ("ppo.kl.controller", "ppo.kl.target", "ppo.kl.horizon"),
        ("toolkit/stages/kl_control.py:KlControl.update",),
    )  # fmt: skip
    yield Detail(
        27, _PPO, "k1 = d, k2 = d^2/2, k3 = expm1(-d) + d; a KL that stays negative is reported",
        ("ppo.kl.estimator",),
        ("toolkit/stages/experience.py:shape", "toolkit/stages/watch.py:Watch.before_update"),
    )  # fmt: skip
    yield Detail(
        28, _PPO, "prompts are shuffled again when they run out",
        (),
        ("toolkit/training/random.py:Order._at",),
    )  # fmt: skip
    yield Detail(
        29, _PPO, "softmax, losses and advantages in fp32; ratio 1 and KL 0 on the first minibatch",
        ("hardware.precision",),
        ("toolkit/models/heads.py:Policy.logprobs",
         "toolkit/stages/watch.py:Watch.first_minibatch",
         "toolkit/stages/watch.py:Watch.behaviour"),
    )  # fmt: skip
    yield Detail(
        30, _PPO, "KL, entropy, scores, ratio, clipping, explained variance, both gradient norms "
        "are logged",
        ("log",),
        ("toolkit/stages/watch.py:objective", "toolkit/stages/ppo.py:PPO.step"),
    )  # fmt: skip


DETAILS: tuple[Detail, ...] = tuple(_table())
"""The thirty, in order."""

"""The details of a run without PPO: what takes their place with dpo or kto, and what has none.

The thirty are PPO's. A learner from rankings shares the tokens, the optimizer and the logging, has
no sampling of its own, no value function and no advantages, and its coefficient is beta.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from toolkit.spec.details import DETAILS, Detail
from toolkit.spec.schema import FROM_RANKINGS, Spec

_LEARNER = "LEARNER."
_FILE = "toolkit/stages/rankings.py:FromRankings"

_INSTEAD: dict[int, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    5: (
        "sampled tokens stay as drawn in ranking, reward model and learner",
        (),
        ("toolkit/stages/collect.py:Collect._record", f"{_FILE}._parts"),
    ),
    7: (
        "logits are divided by the temperature where answers are drawn; the learner's log-probs "
        "have temperature 1",
        ("collect.sampling.temperature",),
        ("toolkit/rollout.py:_draw", "toolkit/models/heads.py:Policy.answer_logprobs"),
    ),
    16: (
        "no dropout in policy and reference, nor in a reward model",
        ("sft.dropout",),
        ("toolkit/models/load.py:_fit_to_text", "toolkit/models/load.py:set_residual_dropout"),
    ),
    18: (
        "beta times the log-ratio to the reference is an answer's implicit reward: a larger beta "
        "holds the policy nearer to it",
        ("LEARNER.beta", "LEARNER.reference"),
        (f"{_FILE}._logratios",),
    ),
    23: (
        "a batch is whole prompts with all their answers; micro-batches add up, one optimizer step "
        "each batch",
        ("LEARNER.epochs", "LEARNER.batch"),
        (f"{_FILE}.step", f"{_FILE}._backward"),
    ),
    24: (
        DETAILS[23].text,
        ("LEARNER.optimizer.eps", "LEARNER.optimizer.betas"),
        DETAILS[23].where,
    ),
    25: (
        "the rate follows its schedule",
        (
            "LEARNER.lr",
            "LEARNER.schedule.name",
            "LEARNER.schedule.floor",
            "LEARNER.schedule.warmup",
        ),
        ("toolkit/training/optim.py:make_updater",),
    ),
    28: (DETAILS[27].text, (), (f"{_FILE}._taken", "toolkit/training/random.py:Order._at")),
    29: (
        "softmax and losses in fp32; the log-ratio is 0 at the first step",
        ("hardware.precision",),
        ("toolkit/models/heads.py:Policy.answer_logprobs", f"{_FILE}.setup"),
    ),
    30: (
        "loss, accuracy and margin of the implicit rewards, KL and the gradient norm are logged",
        ("log",),
        (f"{_FILE}.step",),
    ),
}
"""Number -> text, keys and places with a learner from rankings; LEARNER is its section."""

_MAKE_A_REWARD_MODEL = (12, 13, 14, 15)
_READ_A_REWARD_MODEL = (10, 11, *_MAKE_A_REWARD_MODEL)
_LEARN = range(16, 31)


def details_of(spec: Spec) -> Iterator[Detail]:
    """Yield the thirty as they are in a spec: PPO's, or what a run has without it."""
    for detail in DETAILS:
        yield _without_reward_model(spec, detail) or _without_ppo(spec, detail) or detail


def _without_reward_model(spec: Spec, detail: Detail) -> Detail | None:
    given = spec.models.reward_trained is not None
    if spec.reward_rounds or detail.number not in _READ_A_REWARD_MODEL:
        return None
    if not given:
        return _unused(detail, f"{spec.learner} learns from rankings, nothing asks for one")
    if detail.number in _MAKE_A_REWARD_MODEL:
        return _unused(detail, "the reward model is given (models.reward_trained)")
    return None


def _without_ppo(spec: Spec, detail: Detail) -> Detail | None:
    """Return what stands in a detail's place; None where it holds without PPO as well."""
    if spec.ppo is not None:
        return None
    learner = spec.learner if spec.learner in FROM_RANKINGS else None
    part = spec.learner_name if learner and detail.number in _LEARN else detail.part
    if learner and detail.number in _INSTEAD:
        text, keys, where = _INSTEAD[detail.number]
        own = tuple(key.replace(_LEARNER, f"{learner}.") for key in keys)
        return replace(detail, part=part, text=text, keys=own, where=where, follows=None)
    if detail.number not in _LEARN:
        return None
    why = f"{learner} has no such part" if learner else "no stage improves the policy (ppo: null)"
    return _unused(replace(detail, part=part), why)


def _unused(detail: Detail, why: str) -> Detail:
    return replace(detail, keys=(), where=(), follows=lambda _: [("", f"not used: {why}")])

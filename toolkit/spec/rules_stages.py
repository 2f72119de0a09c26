"""Contradictions within and between the stages. See rules.py for the form of a rule."""

from __future__ import annotations

from collections.abc import Iterator

from toolkit.spec.rules import Finding, RuleTable
from toolkit.spec.rules_data import collects
from toolkit.spec.schema import FROM_RANKINGS, Ppo, Spec

RULES = RuleTable()


@RULES.rule("collect", "data", "models.reward_trained", "dpo", "kto")
def something_is_ranked(spec: Spec) -> Iterator[Finding]:
    """Rankings are collected or read."""
    trained = spec.models.reward_trained
    teach = spec.learner in FROM_RANKINGS
    if spec.collect is None and not spec.data.rankings and not trained and not teach:
        fix = "add data.rankings, or turn collect on with collect: {}"
        yield ("collect",), f"nothing to train the reward model on; {fix}"


@RULES.rule("label", "collect", "data", "models.reward_trained", "dpo", "kto")
def labeller_exists(spec: Spec) -> Iterator[Finding]:
    """Whoever ranks is there."""
    label = spec.label
    if not spec.ranks:
        return
    if label.by == "file" and not spec.data.rankings:
        yield ("label.by",), "by: file needs data.rankings; add it, or rank by oracle or model"
    elif label.by == "file" and spec.collect:
        message = "by: file would leave the collected answers unranked; set collect: null"
        yield ("label.by",), message
    elif label.by == "people" and not collects(spec):
        message = (
            "people rank collected answers, and none are; turn collect on, or set by: file to read "
            "data.rankings"
        )
        yield ("label.by", "collect"), message
    elif label.by == "oracle" and collects(spec) and not spec.data.task and not label.fn:
        fix = "add label.fn: path/to/file.py:function, or rank by people or model"
        yield ("label.by", "label"), f"by: oracle needs a function that scores answers; {fix}"
    elif label.by == "model" and not label.model:
        message = "by: model needs label.model: {path: a reward model's folder}"
        yield ("label.by",), message


@RULES.rule("label")
def labeller_is_used(spec: Spec) -> Iterator[Finding]:
    """No second labeller is named in vain."""
    if spec.label.model and spec.label.by != "model":
        yield ("label.model",), f"is not used with by: {spec.label.by}; remove it or set by: model"
    if spec.label.file and spec.label.by != "people":
        message = f"is not used with by: {spec.label.by}; remove it or set by: people"
        yield ("label.file",), message
    if spec.label.fn and spec.label.by != "oracle":
        yield ("label.fn",), f"is not used with by: {spec.label.by}; remove it or set by: oracle"


@RULES.rule("collect.sources")
def sources_exist(spec: Spec) -> Iterator[Finding]:
    """Somebody answers in the first round."""
    if spec.collect and collects(spec):
        there = [name for name, weight in spec.collect.sources.items() if weight > 0]
        if there == ["ppo"]:
            message = "there is no PPO policy before the first PPO; add sft, base or a model folder"
            yield ("collect.sources",), message


@RULES.rule("ppo.batch", "ppo.minibatch", "ppo.episodes")
def batches_divide(spec: Spec) -> Iterator[Finding]:
    """Episodes are whole batches of whole minibatches."""
    ppo = spec.ppo
    if ppo is None:
        return
    if ppo.minibatch > ppo.batch:
        message = f"minibatch {ppo.minibatch} is larger than batch {ppo.batch}; lower it"
        yield ("ppo.minibatch", "ppo.batch"), message
    elif ppo.batch % ppo.minibatch:
        fix = _near_divisors(ppo.batch, ppo.minibatch)
        message = f"minibatch {ppo.minibatch} does not divide batch {ppo.batch}; use {fix}"
        yield ("ppo.minibatch", "ppo.batch"), message
    if ppo.episodes % ppo.batch:
        up = (ppo.episodes // ppo.batch + 1) * ppo.batch
        message = f"episodes {ppo.episodes} is not a multiple of batch {ppo.batch}; use {up}"
        yield ("ppo.episodes", "ppo.batch"), message


def _near_divisors(whole: int, wanted: int) -> str:
    divisors = [n for n in range(1, whole + 1) if whole % n == 0]
    below = max(n for n in divisors if n < wanted)
    above = min(n for n in divisors if n > wanted)
    return f"{below} or {above}"


@RULES.rule("ppo.kl.place", "ppo.kl.estimator")
def kl_in_the_loss_has_a_gradient(spec: Spec) -> Iterator[Finding]:
    """The expected gradient of k1 in a loss is zero."""
    if spec.ppo and spec.ppo.kl.place == "loss" and spec.ppo.kl.estimator == "k1":
        message = (
            "in the loss, k1's expected gradient is zero, so the penalty would do nothing; "
            "use k2 or k3 there, or place: reward"
        )
        yield ("ppo.kl.place", "ppo.kl.estimator"), message


@RULES.rule("ppo.ptx.ratio", "ppo.minibatch")
def ptx_examples_are_whole(spec: Spec) -> Iterator[Finding]:
    """A minibatch has a whole number of pretraining examples."""
    if spec.ppo and spec.ppo.ptx:
        count = spec.ppo.ptx.ratio * spec.ppo.minibatch
        if count < 1 or abs(count - round(count)) > 1e-9 * count:
            message = (
                f"ratio {spec.ppo.ptx.ratio:g} x minibatch {spec.ppo.minibatch} = {count:g} "
                "pretraining examples; it must be a whole number of at least 1"
            )
            yield ("ppo.ptx.ratio", "ppo.minibatch"), message


def _has_ema(ppo: Ppo | None) -> bool:
    return ppo is None or ppo.ema is not None


@RULES.rule("ppo.ema", "evaluate.weights", "export.weights")
def averaged_weights_exist(spec: Spec) -> Iterator[Finding]:
    """EMA weights are asked for only where PPO keeps them."""
    for name, section in (("evaluate", spec.evaluate), ("export", spec.export)):
        if section and section.weights == "ema" and not _has_ema(spec.ppo):
            message = f"ema: null keeps no averaged weights; set {name}.weights: last, or a decay"
            yield (f"{name}.weights", "ppo.ema"), message


@RULES.rule("reward.gate", "models.reward_trained")
def gate_has_a_reward_model(spec: Spec) -> Iterator[Finding]:
    """A gate judges a reward model that is trained here."""
    if spec.models.reward_trained and spec.reward.gate:
        message = "no reward model is trained here (models.reward_trained); remove the gate"
        yield ("reward.gate",), message


@RULES.rule("evaluate", "data", "sft")
def contestants_exist(spec: Spec) -> Iterator[Finding]:
    """What evaluate compares besides SFT and the learner is there."""
    config = spec.evaluate
    if config is None:
        return
    if config.base and spec.sft is None:
        message = "without an sft stage the pretrained model is already compared, as sft; remove it"
        yield ("evaluate.base",), message
    if config.shots and not spec.data.task and not spec.data.demonstrations:
        message = "a few-shot prefix needs data.demonstrations; add them, or set shots: 0"
        yield ("evaluate.shots",), message
    if config.skills and (spec.data.task is None or spec.data.task.fn is None):
        fix = "name your own task in data.task.fn, or set skills: 0"
        yield ("evaluate.skills",), f"only a task with a method skills(count) has such texts; {fix}"

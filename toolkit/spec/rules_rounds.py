"""Contradictions about rounds, where the policy starts, and who is selected. See rules.py."""

from __future__ import annotations

from collections.abc import Iterator

from toolkit.spec.rules import Finding, RuleTable
from toolkit.spec.rules_data import collects
from toolkit.spec.schema import Spec

RULES = RuleTable()


@RULES.rule("rounds", "collect", "label.by", "label.file", "models.reward_trained")
def later_rounds_have_something_new(spec: Spec) -> Iterator[Finding]:
    """Each round ranks answers that it collected, and improves the policy."""
    if spec.rounds == 1:
        return
    if spec.models.reward_trained:
        message = "a finished reward model is not trained again in later rounds; set rounds: 1"
        yield ("rounds", "models.reward_trained"), message
    elif spec.label.by == "file":
        message = "later rounds have no file to rank by; rank by oracle or model, or set rounds: 1"
        yield ("rounds", "label.by"), message
    elif spec.label.by == "people" and spec.label.file is not None:
        message = (
            "label.file ranks the answers of one round; remove it and rank each round's answers "
            "with `python -m toolkit label`, or set rounds: 1"
        )
        yield ("rounds", "label.file"), message
    elif not collects(spec):
        message = "later rounds have nothing new to rank; turn collect on, or set rounds: 1"
        yield ("rounds", "collect"), message
    if spec.learner is None:
        yield ("rounds", "ppo"), "there is no policy to improve again; add ppo, or set rounds: 1"


@RULES.rule("sft.select", "collect", "data", "models.reward_trained")
def selection_has_a_judge(spec: Spec) -> Iterator[Finding]:
    """A reward model scores each epoch's answers to held-out prompts."""
    if spec.sft is None or spec.sft.select == "last":
        return
    data, judged = spec.data, collects(spec) or spec.data.rankings or spec.models.reward_trained
    if not judged:
        fix = "turn collect on, add data.rankings or models.reward_trained, or set select: last"
        yield ("sft.select",), f"there is no reward model to select by; {fix}"
    if not data.task and not data.prompts:
        message = "each epoch answers held-out prompts; add data.prompts, or set select: last"
        yield ("sft.select",), message
    elif not data.task and data.split.valid == 0:
        message = "no prompts are held out to select on; give a share above 0, or set select: last"
        yield ("data.split.valid", "sft.select"), message


@RULES.rule("ppo.init", "data")
def the_start_has_its_data(spec: Spec) -> Iterator[Finding]:
    """The mixture is of demonstrations and pretraining text."""
    init, data = spec.ppo.init if spec.ppo else None, spec.data
    if init is None or data.task:
        return
    if not data.demonstrations:
        yield ("ppo.init",), "needs demonstrations; add data.demonstrations, or set ppo.init: sft"
    if init.pretrain_mix and not data.pretrain:
        message = "needs pretraining text to mix in; add data.pretrain, or set pretrain_mix: 0"
        yield ("ppo.init.pretrain_mix", "ppo.init"), message


@RULES.rule("ppo.kl")
def the_controller_has_a_target(spec: Spec) -> Iterator[Finding]:
    """The adaptive controller steers to a KL by a coefficient that can move."""
    if spec.ppo is None:
        return
    kl = spec.ppo.kl
    if kl.controller == "fixed" and kl.target is not None:
        message = "is not used with controller: fixed; remove it, or set controller: adaptive"
        yield ("ppo.kl.target",), message
    elif kl.controller == "adaptive" and kl.target is None:
        message = "adaptive needs ppo.kl.target, such as 6.0 nats per response; or set it to fixed"
        yield ("ppo.kl.controller",), message
    elif kl.controller == "adaptive" and kl.coef == 0:
        message = "adaptive multiplies coef, and 0 stays 0; start above 0, or set it to fixed"
        yield ("ppo.kl.coef", "ppo.kl.controller"), message

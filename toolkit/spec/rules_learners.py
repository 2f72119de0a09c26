"""Contradictions of the stages that improve the policy. See rules.py for the form of a rule."""

from __future__ import annotations

from collections.abc import Iterator

from toolkit.spec.rules import Finding, RuleTable
from toolkit.spec.schema import FROM_RANKINGS, LEARNERS, Spec

RULES = RuleTable()


@RULES.rule(*LEARNERS)
def one_learner(spec: Spec) -> Iterator[Finding]:
    """One stage improves the policy."""
    chosen = [kind for kind in LEARNERS if getattr(spec, kind) is not None]
    if len(chosen) > 1:
        off = " and ".join(f"{kind}: null" for kind in chosen if kind != chosen[-1])
        message = f"a run has one learner, and this one has {' and '.join(chosen)}; set {off}"
        yield (chosen[-1], *chosen), message


@RULES.rule(*LEARNERS, "collect", "data", "models.reward_trained")
def rankings_teach(spec: Spec) -> Iterator[Finding]:
    """DPO and KTO learn from rankings, which a finished reward model does not bring."""
    there = spec.collect is not None or spec.data.rankings is not None
    if spec.learner in FROM_RANKINGS and not there:
        fix = "add data.rankings, or turn collect on with collect: {}"
        yield (spec.learner, "collect"), f"{spec.learner} learns from rankings; {fix}"


@RULES.rule("ppo.algorithm", "ppo.inner_epochs", "ppo.minibatch", "ppo.batch")
def a2c_takes_one_step(spec: Spec) -> Iterator[Finding]:
    """Without clipping, only the policy that sampled may learn from a batch."""
    ppo = spec.ppo
    if ppo is None or ppo.algorithm != "a2c":
        return
    why = "a2c has no ratio clip, so only the policy that sampled a batch may learn from it"
    if ppo.inner_epochs != 1:
        message = f"{why}; set inner_epochs: 1, or algorithm: ppo"
        yield ("ppo.inner_epochs", "ppo.algorithm"), message
    if ppo.minibatch != ppo.batch:
        message = f"{why}; set minibatch: {ppo.batch} (the batch), or algorithm: ppo"
        yield ("ppo.minibatch", "ppo.algorithm", "ppo.batch"), message

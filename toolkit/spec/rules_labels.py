"""Contradictions about labelers and folds over them. See rules.py for the form of a rule."""

from __future__ import annotations

from collections.abc import Iterator

from toolkit.spec.rules import Finding, RuleTable
from toolkit.spec.rules_data import collects
from toolkit.spec.schema import Spec

RULES = RuleTable()


@RULES.rule("label", "collect", "models.reward_trained")
def labelers_have_something_to_rank(spec: Spec) -> Iterator[Finding]:
    """Simulated labelers rank collected answers, and share the oracle."""
    if spec.label.labelers is None:
        return
    if spec.label.by != "oracle":
        message = (
            f"simulated labelers share an oracle, and label.by is {spec.label.by}; set label.by: "
            "oracle, or remove labelers (rankings of people carry their own labeler)"
        )
        yield ("label.labelers", "label.by"), message
    elif not collects(spec):
        message = "simulated labelers rank collected answers, and none are; remove labelers"
        yield ("label.labelers",), message


@RULES.rule("label.labelers")
def some_labelers_train(spec: Spec) -> Iterator[Finding]:
    """Not everybody is held out, and nobody ranks a prompt twice."""
    people = spec.label.labelers
    if people is None:
        return
    if people.held_out >= people.count:
        message = (
            f"held_out {people.held_out} of {people.count} labelers leaves nobody to learn from; "
            f"hold out at most {people.count - 1}, or raise count"
        )
        yield ("label.labelers.held_out", "label.labelers.count"), message
    if people.raters is not None and people.raters > people.count:
        message = f"{people.raters} raters of a prompt, but there are {people.count} labelers"
        yield ("label.labelers.raters", "label.labelers.count"), f"{message}; lower raters"


@RULES.rule("folds", "label", "data.rankings", "models.reward_trained")
def folds_have_labelers(spec: Spec) -> Iterator[Finding]:
    """Folds leave out labelers, of whom there are enough."""
    if spec.folds is None:
        return
    people, groups = spec.label.labelers, spec.folds.count
    if spec.models.reward_trained:
        yield ("folds",), "no reward model is trained here (models.reward_trained); remove folds"
    elif people is None and spec.data.rankings is None and spec.label.by != "people":
        message = (
            "leaves out one group of labelers at a time, and there are none; add label.labelers, "
            "rank by people, or add data.rankings whose records have a labeler"
        )
        yield ("folds",), message
    elif people is not None and people.count - people.held_out < groups:
        left = people.count - people.held_out
        message = f"{groups} groups, but {left} labelers to train on; lower it, or add labelers"
        yield ("folds.count", "label.labelers.count", "folds"), message

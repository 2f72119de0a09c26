"""Stage `folds`: how far a reward model's accuracy carries to labelers it never saw (paper, 4.1).

The labelers who train are parted into groups. For each group one more reward model is trained as
stage `reward` does, without the group's rankings; then two accuracies are taken on prompts held out
from all training: on the rankings of the labelers it was trained on, and on those of the group.
Some labelers are harder to predict than others, whoever trained on them, so the difference is taken
group by group: accuracy on it without its rankings, less the mean accuracy on it of the models that
had them. The models are not kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from toolkit.data.lines import read_records
from toolkit.spec.errors import StageFailed
from toolkit.spec.schema import Reward as RewardSettings
from toolkit.stages.context import StageContext, StageResult
from toolkit.stages.elements import as_elements, by_trainer, split_by_prompt
from toolkit.stages.reward import Reward
from toolkit.stages.shared import Record, needed


@dataclass(frozen=True)
class Fold:
    """One training.

    Args:
        labelers: the group that is left out.
        train: rankings of training prompts by the others.
        seen: rankings of held-out prompts by the others.
        unseen: rankings of held-out prompts by the group.
    """

    labelers: tuple[str, ...]
    train: list[Record]
    seen: list[Record]
    unseen: list[Record]


class Folds:
    """Train the folds' reward models one after the other."""

    def __init__(self, ctx: StageContext) -> None:
        """Remember the context."""
        self.ctx, self.config = ctx, needed(ctx.spec.folds)
        self.fold = -1
        self.results: list[Record] = []

    def setup(self) -> int:
        """Part the labelers; return the steps of all trainings."""
        spec = self.ctx.spec
        records = read_records(self.ctx.inputs["label"] / "rankings.jsonl")
        split = split_by_prompt(records, spec.data.split.valid, spec.seed)
        train, valid = (by_trainer(side)[0] for side in split)
        self.folds = make_folds(train, valid, self.config.count)
        refuse_empty(self.folds)
        sizes = [steps_of(spec.reward, fold.train) for fold in self.folds]
        self.starts = list(accumulate(sizes, initial=0))
        return self.starts[-1]

    def _begin(self, number: int) -> None:
        fold = self.folds[number]
        self.fold = number
        self.reward = Reward(replace(self.ctx, round=number + 1))
        self.reward.begin(fold.train, fold.seen)

    def step(self, i: int) -> dict[str, float]:
        """One optimizer step of the fold it falls in; after its last one the fold is measured."""
        number = next(n for n in range(len(self.folds)) if i < self.starts[n + 1])
        if number != self.fold:
            self._begin(number)
        values = self.reward.step(i - self.starts[number])
        if i + 1 == self.starts[number + 1]:
            self.results.append(self._measure(self.folds[number]))
        return values | {"fold": float(number + 1)}

    def _measure(self, fold: Fold) -> Record:
        measure = self.reward.measure
        return {
            "labelers": list(fold.labelers),
            "trained_on": len(fold.train),
            "training_labelers": measure(fold.seen),
            "held_out_labelers": measure(fold.unseen),
            "groups": [
                {
                    "labelers": list(other.labelers),
                    "accuracy": measure(other.unseen).get("accuracy"),
                }
                for other in self.folds
            ],
        }

    def state(self) -> dict[str, Any]:
        """The fold being trained, and what the folds before it gave."""
        return {"fold": self.fold, "results": self.results, "reward": self.reward.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self.results = list(state["results"])
        self._begin(int(state["fold"]))
        self.reward.restore(state["reward"])

    def finish(self) -> StageResult:
        """Write folds.json: each fold, and both means with their errors."""
        summary = summarize(self.results)
        found = {"folds": self.results, **summary}
        (self.ctx.work / "folds.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        return StageResult(summary=summary)


def steps_of(config: RewardSettings, train: list[Record]) -> int:
    """Return the optimizer steps of a reward model's training on these rankings."""
    elements = as_elements(train, config.element, config.ties)
    return config.epochs * math.ceil(len(elements) / config.batch)


def make_folds(train: list[Record], valid: list[Record], count: int) -> list[Fold]:
    """Part the labelers into `count` groups, and make the fold that leaves each one out.

    Args:
        train: rankings of training prompts; those without a labeler train in every fold.
        valid: rankings of held-out prompts.
        count: groups, of sizes that differ by one at most.

    Raises:
        StageFailed: there are fewer labelers than groups.
    """
    names = sorted({str(r["labeler"]) for r in [*train, *valid] if r.get("labeler") is not None})
    if len(names) < count:
        raise StageFailed(
            f"folds: {count} groups need as many labelers, and the rankings have {len(names)}; "
            "lower folds.count, or give records a labeler"
        )
    groups = [tuple(names[number::count]) for number in range(count)]
    named = [r for r in valid if r.get("labeler") is not None]
    return [
        Fold(
            labelers=group,
            train=[r for r in train if str(r.get("labeler")) not in group],
            seen=[r for r in named if str(r["labeler"]) not in group],
            unseen=[r for r in named if str(r["labeler"]) in group],
        )
        for group in groups
    ]


def refuse_empty(folds: list[Fold]) -> None:
    """Find folds that could not train before any of them has.

    Raises:
        StageFailed: no ranking that a fold trains on prefers one answer to another.
    """
    for fold in folds:
        if not any(len(set(r["ranks"])) > 1 for r in fold.train):
            raise StageFailed(
                f"folds: without the rankings of {', '.join(fold.labelers)} no two answers to one "
                f"training prompt differ in rank ({len(fold.train)} prompts are left), so there is "
                "nothing to learn; collect more prompts, lower folds.count, or leave folds out"
            )


def summarize(results: list[Record]) -> dict[str, Any]:
    """Return mean and standard error over folds of both accuracies, and over groups of the change.

    A fold without a comparable pair on one side does not count, nor a group without any.
    """
    sides = ("training_labelers", "held_out_labelers")
    both = [[r[side]["accuracy"] for side in sides] for r in results if _is_measured(r, sides)]
    columns = dict(zip(sides, zip(*both, strict=True), strict=True)) if both else {}
    found = {side: _mean_error(values) for side, values in columns.items()}
    changes = [change for result in results for change in _change(results, result["labelers"])]
    return found | ({"difference": _mean_error(changes)} if changes else {})


def _change(results: list[Record], group: list[str]) -> list[float]:
    """Return [accuracy on a group without its rankings, less with them]; [] where unknown."""
    without: list[float | None] = []
    with_them: list[float | None] = []
    for result in results:
        own = next(g["accuracy"] for g in result["groups"] if g["labelers"] == group)
        (without if result["labelers"] == group else with_them).append(own)
    left, had = ([v for v in side if v is not None] for side in (without, with_them))
    return [left[0] - sum(had) / len(had)] if left and had else []


def _is_measured(result: Record, sides: Iterable[str]) -> bool:
    return all("accuracy" in result[side] for side in sides)


def _mean_error(values: Iterable[float]) -> dict[str, float]:
    numbers = list(values)
    mean = sum(numbers) / len(numbers)
    if len(numbers) < 2:
        return {"mean": mean}
    variance = sum((value - mean) ** 2 for value in numbers) / (len(numbers) - 1)
    return {"mean": mean, "error": math.sqrt(variance / len(numbers))}


STAGE = Folds

"""Stage `label`: rank each prompt's answers, by an oracle, by people, or by a reward model.

Equal scores are a tie. With `label.labelers` people with tastes of their own rank in the oracle's
place, one for each prompt and several for some. A later round hands on all comparisons so far:
those of the round before it, then its own; a record's `round` says when it was ranked, 0 for the
rankings that came as a file. Writes rankings.jsonl, and labels.json: who ranked how much, how far
they agree, and what they say of the answers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.data.agreement import agreement_of, labelers_of
from toolkit.data.batches import collate
from toolkit.data.labelers import Labeler, axes_of, who_ranks
from toolkit.data.lines import read_records, write_records
from toolkit.data.metadata import summarize_metadata
from toolkit.data.oracle import load_oracle
from toolkit.models.heads import Scorer
from toolkit.models.load import load_scalar
from toolkit.spec.errors import StageFailed
from toolkit.spec.schema import Labelers
from toolkit.stages.context import StageContext, StageResult
from toolkit.stages.people import ranked_in_file, ranked_in_run
from toolkit.stages.shared import Record, text_of


class Label:
    """Rank everything in one step."""

    def __init__(self, ctx: StageContext) -> None:
        """Remember the context."""
        self.ctx, self.config = ctx, ctx.spec.label
        self.records: list[Record] = []
        self.warnings: list[str] = []

    def setup(self) -> int:
        """Read the answers, and the rankings that came as a file or in earlier rounds."""
        self.text = text_of(self.ctx)
        given = self.ctx.inputs["data"] / "rankings.jsonl"
        self.given = [{**r, "round": 0} for r in read_records(given)] if given.exists() else []
        if "label" in self.ctx.inputs:  # it holds the given ones too
            self.given = read_records(self.ctx.inputs["label"] / "rankings.jsonl")
        self.samples: list[Record] = []
        if "collect" in self.ctx.inputs and self.config.by != "file":
            self.samples = read_records(self.ctx.inputs["collect"] / "samples.jsonl")
        if not self.samples and not self.given:
            raise StageFailed(
                "label: there is nothing to rank; give data.rankings or a collect section"
            )
        if self.config.by == "people":
            self._read_people()
        return 1

    def _read_people(self) -> None:
        """Put people's rankings in the place of the answers; wait where there are none yet."""
        file, quorum = self.config.file, self.config.quorum
        if file is not None:
            ranked = ranked_in_file(file, self.samples)
        else:
            ranked = ranked_in_run(self.ctx.name, self.ctx.spec.out, self.samples, quorum)
        self.given += [{**record, "round": self.ctx.round} for record in ranked.records]
        self.samples, self.warnings = [], ranked.warnings

    def step(self, i: int) -> dict[str, float]:
        """Score all answers, turn scores into ranks, add the rankings that there were."""
        scores = self._scores() if self.samples else []
        judged = list(zip(self.samples, scores, strict=True))
        if self.config.labelers is not None:
            judged = self._by_labelers(self.config.labelers, judged)
        ranked = [
            {
                **sample,
                "round": self.ctx.round,
                "scores": own,
                "ranks": ranks_of(own, ties=self.config.ties),
            }
            for sample, own in judged
        ]
        later = "label" in self.ctx.inputs
        self.records = self.given + ranked if later else ranked + self.given
        tied = [len(r["ranks"]) - len(set(r["ranks"])) for r in self.records]
        return {"prompts": float(len(self.records)), "ties": float(np.mean([t > 0 for t in tied]))}

    def _scores(self) -> list[list[float]]:
        sizes = [len(s["responses"]) for s in self.samples]
        flat = self._by_model() if self.config.by == "model" else self._by_oracle()
        ends = np.cumsum(sizes)
        return [list(map(float, flat[e - s : e])) for s, e in zip(sizes, ends, strict=True)]

    def _by_oracle(self) -> list[float]:
        prompts = [s["prompt"] for s in self.samples for _ in s["responses"]]
        responses = [r for s in self.samples for r in s["responses"]]
        finished = [f for s in self.samples for f in s["finished"]]
        oracle = load_oracle(self.ctx.spec)
        if oracle is None:
            raise StageFailed(
                "label.by is oracle but there is none; set label.fn or use a data.task"
            )
        return oracle(prompts, responses, finished)

    def _by_labelers(
        self, settings: Labelers, judged: list[tuple[Record, list[float]]]
    ) -> list[tuple[Record, list[float]]]:
        """Return each ranking by each labeler who has that prompt, with the labeler's scores."""
        ctx = self.ctx
        people = [Labeler(settings, ctx.spec.seed, n) for n in range(settings.count)]
        axes = axes_of(ctx.spec)([sample["prompt"] for sample, _ in judged])
        out = []
        for at, ((sample, oracle), axis) in enumerate(zip(judged, axes, strict=True)):
            for number in who_ranks(settings, ctx.spec.seed, "label", ctx.round, at):
                person = people[number]
                answers = zip(sample["responses"], oracle, strict=True)
                own = [person.score(sample["prompt"], axis, *answer) for answer in answers]
                signed = sample | {"labeler": person.name, "oracle": oracle}
                out.append((signed | ({"labeler_held_out": True} if person.held_out else {}), own))
        return out

    def _by_model(self) -> list[float]:
        assert self.config.model is not None
        model = load_scalar(Path(self.config.model.path), self.text, self.ctx.device)
        scorer = Scorer(model, self.ctx.spec.hardware)
        flat: list[float] = []
        for sample in self.samples:
            count = len(sample["responses_ids"])
            batch = collate(
                [sample["prompt_ids"]] * count, sample["responses_ids"], self.text.pad_id
            )
            flat += scorer.scores(batch).tolist()
        return flat

    def state(self) -> dict[str, Any]:
        """One step: nothing to keep."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """One step: nothing to continue."""

    def finish(self) -> StageResult:
        """Write the rankings, and what is known of those who made them."""
        write_records(self.ctx.work / "rankings.jsonl", self.records)
        tied = sum(len(r["ranks"]) - len(set(r["ranks"])) > 0 for r in self.records)
        labels = {
            "labelers": labelers_of(self.records),
            "agreement": agreement_of(self.records),
            "metadata": summarize_metadata(self.records),
        }
        (self.ctx.work / "labels.json").write_text(json.dumps(labels, indent=1), encoding="utf-8")
        summary: dict[str, Any] = {"prompts": len(self.records), "prompts_with_ties": tied}
        known = {name: value for name, value in labels.items() if value}
        return StageResult(summary=summary | known, warnings=tuple(self.warnings))


def ranks_of(scores: list[float], *, ties: bool) -> list[int]:
    """1 is best; equal scores share a rank, or (ties=False) the earlier answer wins."""
    if ties:
        order = sorted(set(scores), reverse=True)
        return [order.index(score) + 1 for score in scores]
    by_score = sorted(range(len(scores)), key=lambda i: -scores[i])
    return [by_score.index(i) + 1 for i in range(len(scores))]


STAGE = Label

"""Stage `select`: the SFT model is the epoch whose answers the reward model likes best (C.1).

Validation loss is at its best early, and more epochs still help, so the reward model decides. Every
epoch answers the same held-out prompts with the same random numbers, at temperature 1; the highest
mean score wins, the earlier epoch where two are equal.
"""

from __future__ import annotations

import json
import shutil
from typing import Any

from toolkit.data.batches import collate
from toolkit.data.lines import read_records
from toolkit.models.heads import Policy, Scorer
from toolkit.models.load import load_policy, load_scalar
from toolkit.rollout import sample_answers
from toolkit.spec.errors import StageFailed
from toolkit.spec.schema import Sampling
from toolkit.stages.context import StageContext, StageResult
from toolkit.stages.shared import Record, needed, reward_folder, stream_of, text_of

_CHUNK = 256  # prompts answered together; the answers do not depend on it


class Select:
    """Score one epoch per step."""

    def __init__(self, ctx: StageContext) -> None:
        """Remember the context."""
        self.ctx, self.config, self.stream = ctx, needed(ctx.spec.sft), stream_of(ctx)
        self.scores: list[float] = []

    def setup(self) -> int:
        """Choose held-out prompts; load the reward model."""
        ctx = self.ctx
        self.text = text_of(ctx)
        self.epochs: list[Record] = json.loads((ctx.inputs["sft"] / "epochs.json").read_text())
        prompts = read_records(ctx.inputs["data"] / "prompts.valid.jsonl")
        if not prompts:
            raise StageFailed(
                "select: no prompts are held out; raise data.split.valid, give more prompts, or "
                "set sft.select: last"
            )
        count = min(self.config.select_prompts, len(prompts))
        chosen = self.stream.permutation(len(prompts), "prompts")[:count]
        self.prompts = sorted(
            (prompts[p]["prompt_ids"] for p in chosen), key=len
        )  # of like length together: little padding
        reward = load_scalar(needed(reward_folder(ctx)), self.text, ctx.device)
        self.scorer = Scorer(reward, ctx.spec.hardware)
        return len(self.epochs)

    def step(self, i: int) -> dict[str, float]:
        """Answer the prompts with one epoch's model, and score the answers."""
        folder = self.ctx.inputs["sft"] / self.epochs[i]["folder"]
        model = load_policy(folder, self.text, self.ctx.device)
        policy = Policy(model, self.text.vocab, self.ctx.spec.hardware)
        scores: list[float] = []
        for first in range(0, len(self.prompts), _CHUNK):
            ids = self.prompts[first : first + _CHUNK]
            answers = sample_answers(
                policy,
                self.text,
                ids,
                sampling=Sampling(),
                draws=(self.stream, "answer", range(first, first + len(ids))),
                max_response=self.ctx.spec.text.max_response,
            )
            scores += self.scorer.scores(collate(ids, answers.ids, self.text.pad_id)).tolist()
        self.scores.append(sum(scores) / len(scores))
        return {"score": self.scores[-1], "epoch": float(self.epochs[i]["epoch"])}

    def state(self) -> dict[str, Any]:
        """The scores so far."""
        return {"scores": self.scores}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self.scores = list(state["scores"])

    def finish(self) -> StageResult:
        """Copy the chosen model; write select.json."""
        best = max(range(len(self.scores)), key=lambda n: self.scores[n])
        chosen = self.epochs[best]
        folder = self.ctx.inputs["sft"] / chosen["folder"]
        shutil.copytree(folder, self.ctx.work / "model", dirs_exist_ok=True)
        epochs = [
            {"epoch": e["epoch"], "score": score, "valid_loss": e["valid_loss"]}
            for e, score in zip(self.epochs, self.scores, strict=True)
        ]
        result = {"chosen": chosen["epoch"], "prompts": len(self.prompts), "epochs": epochs}
        (self.ctx.work / "select.json").write_text(json.dumps(result, indent=1))
        return StageResult(summary=result)


STAGE = Select

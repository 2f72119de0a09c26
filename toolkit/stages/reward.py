"""Stage `reward`: train the reward model on rankings (InstructGPT C.2, 3.5).

    loss = - mean over prompts, mean over a prompt's pairs, log sigmoid(r(x, y_w) - r(x, y_l))

All pairs of a prompt are one batch element: each answer is forwarded once, and where that pays the
prompt too (`element: pair` shuffles single pairs instead, for comparison). Afterwards scores are
shifted so that the demonstrations average 0; the shift stands as `score_offset` in config.json,
since such heads have no bias.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

import rlhf_kernels as rk
from toolkit.data.batches import Batch, collate, offsets
from toolkit.data.lines import read_records, write_records
from toolkit.data.shared import SharedBatch
from toolkit.models.compute import sequences_a_pass
from toolkit.models.heads import Scorer
from toolkit.models.load import load_base, make_scalar
from toolkit.models.save import save_model
from toolkit.spec.errors import StageFailed
from toolkit.stages.context import StageContext, StageResult
from toolkit.stages.elements import (
    as_elements,
    by_answers,
    by_source,
    by_trainer,
    length_range,
    split_by_prompt,
    tokens,
)
from toolkit.stages.shared import (
    Record,
    language_model_state,
    load_pretrained,
    pretrained_folder,
    sft_folder,
    stream_of,
    text_of,
)
from toolkit.training.device import move, read_rows
from toolkit.training.guard import check_finite, norm_check
from toolkit.training.optim import make_updater
from toolkit.training.random import Order, Stream

_CHUNK = 256  # answers scored together after training
_CENTRE_ON = 2048  # demonstrations that centre the scores; its error is then 2 % of their spread
_TRAINED_ON = 512  # training prompts measured beside the held-out ones, to see overfitting


class Reward:
    """Train a scalar model to order answers as the rankings do."""

    def __init__(self, ctx: StageContext) -> None:
        """Remember the context."""
        self.ctx, self.config, self.stream = ctx, ctx.spec.reward, stream_of(ctx)
        self.others: list[Record] = []  # rankings of held-out prompts by held-out labelers

    def setup(self) -> int:
        """Load the rankings, hold some prompts out, put a scalar head on the backbone."""
        spec = self.ctx.spec
        records = read_records(self.ctx.inputs["label"] / "rankings.jsonl")
        train, valid = split_by_prompt(records, spec.data.split.valid, spec.seed)
        valid, self.others = by_trainer(valid)
        return self.begin(by_trainer(train)[0], valid)

    def begin(self, train: list[Record], valid: list[Record]) -> int:
        """Make the model and its optimizer; return the number of steps.

        Args:
            train: rankings to learn from.
            valid: rankings of held-out prompts by the same labelers.

        Raises:
            StageFailed: there is nothing to learn.
        """
        ctx, config = self.ctx, self.config
        self.text = text_of(ctx)
        self.train, self.valid = train, valid
        if not any(len(set(r["ranks"])) > 1 for r in self.train):
            raise StageFailed(
                f"reward: none of the {len(self.train)} training prompts has two answers of "
                f"different rank, so there is "
                "nothing to learn; collect more prompts, raise collect.k, or look at the labels"
            )
        head = Stream(ctx.spec.seed, "reward head")
        self.model = make_scalar(self._backbone(), self.text, head, ctx.device, std=config.head_std)
        self.scorer = Scorer(self.model, ctx.spec.hardware)
        self.scorer.allow_rows()
        self.elements = as_elements(self.train, config.element, config.ties)
        self.by_epoch: list[dict[str, Any]] = []
        self.per_epoch = math.ceil(len(self.elements) / config.batch)
        total = config.epochs * self.per_epoch
        self.updater = make_updater(self.model, config.optimizer, config.lr, config.schedule, total)
        self.order = Order(self.stream, len(self.elements))
        return total

    def _backbone(self) -> Path:
        """The folder the trunk comes from.

        A model that exists nowhere yet is written down first.
        """
        ctx = self.ctx
        own = ctx.spec.models.reward
        if own is not None and own.path is not None:
            return Path(own.path)
        if own is not None:
            return self._written(load_base(own, self.text, Stream(ctx.spec.seed, "reward base")))
        folder = sft_folder(ctx) if self.config.init == "sft" else pretrained_folder(ctx)
        return folder or self._written(load_pretrained(ctx, self.text))

    def _written(self, model: PreTrainedModel) -> Path:
        folder = self.ctx.work / "untrained"
        save_model(model, folder, self.text)
        return folder

    def step(self, i: int) -> dict[str, float]:
        """One optimizer step on `batch` prompts with all their answers; held out, each epoch."""
        epoch, place = divmod(i, self.per_epoch)
        start = place * self.config.batch
        count = min(self.config.batch, len(self.elements) - start)
        rows = self.order.take(epoch * len(self.elements) + start, count)
        records = [self.elements[r] for r in rows]
        lr = self.updater.lr
        loss, accuracy = self._backward(i, records)
        values = {
            "loss": loss,
            "accuracy": accuracy,
            "grad_norm": self.updater.step(norm_check(self.ctx, i, records=records)),
            "lr": lr,
        }
        if place == self.per_epoch - 1:
            held = self.measure(self.valid)
            self.by_epoch.append(held)
            values.update({f"valid_{key}": v for key, v in held.items() if key != "pairs"})
        tokens = sum(len(ids) for r in records for ids in r["responses_ids"])
        return values | {"tokens": float(tokens)}

    def _backward(self, i: int, records: list[Record]) -> tuple[float, float]:
        """Accumulate gradients over micro-batches of whole prompts; return (loss, accuracy)."""
        useful = [r for r in records if self.config.ties == "half" or len(set(r["ranks"])) > 1]
        total, right, pairs = 0.0, 0.0, 0.0
        parts = by_answers(useful, self._answers_a_pass(useful))
        seen: list[list[Tensor]] = []
        for part in parts:
            scores = self.scorer.scores_of(self._collate(part))
            loss, stats = self._loss(scores, part, denominator=len(useful))
            loss.backward()
            seen.append([loss.detach(), stats["accuracy"], stats["pairs"]])
        for part, (own, accuracy, compared) in zip(parts, read_rows(seen), strict=True):
            check_finite(self.ctx, i, "the loss", own, records=part)
            total += own
            right += accuracy * compared
            pairs += compared
        return total, right / max(1.0, pairs)

    def _answers_a_pass(self, records: list[Record]) -> int | None:
        answers = sum(len(r["ranks"]) for r in records)
        longest = max((tokens(r) for r in records), default=0)
        return sequences_a_pass(answers, longest, self.ctx.spec.hardware, self.scorer.device)

    def _loss(
        self, scores: Tensor, records: list[Record], denominator: int | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        ranks = torch.tensor([rank for r in records for rank in r["ranks"]])
        groups = torch.tensor(offsets([len(r["ranks"]) for r in records]))
        ranks, groups = move(ranks, scores.device), move(groups, scores.device)
        return rk.ranking_loss(
            scores, ranks, groups, ties=self.config.ties, denominator=denominator
        )

    def _collate(self, records: list[Record]) -> Batch | SharedBatch:
        prompts, answers = ([r[key] for r in records] for key in ("prompt_ids", "responses_ids"))
        return self.scorer.collate(prompts, answers)

    def state(self) -> dict[str, Any]:
        """Weights, optimizer, schedule, held-out figures of each epoch so far."""
        return language_model_state(self.model, self.updater) | {"by_epoch": self.by_epoch}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self.model.load_state_dict(state["model"])
        self.updater.restore(state["updater"])
        self.by_epoch = list(state["by_epoch"])

    def finish(self) -> StageResult:
        """Centre the scores, measure held-out accuracy, save, apply the gate."""
        self._centre()
        accuracy = self._accuracy()
        (self.ctx.work / "accuracy.json").write_text(json.dumps(accuracy, indent=1))
        write_records(self.ctx.work / "rankings.valid.jsonl", self.valid)
        save_model(self.model, self.ctx.work / "model", self.text)
        skipped = sum(len(set(r["ranks"])) == 1 for r in self.train)
        summary = {
            "steps": self.updater.steps,
            "prompts": len(self.train),
            "prompts_without_pairs": skipped if self.config.ties == "drop" else 0,
            "accuracy": accuracy["valid"].get("accuracy"),
            "by_epoch": self.by_epoch,
            "score_offset": accuracy["score_offset"],
        }
        return StageResult(summary=summary, gate=self._gate(accuracy["valid"]))

    def _centre(self) -> None:
        """Shift so that the demonstrations average 0 (3.5)."""
        if self.config.center_on is None:
            return
        path = self.ctx.inputs["data"] / "demonstrations.train.jsonl"
        demos = read_records(path)[:_CENTRE_ON] if path.exists() else []
        if not demos:
            raise StageFailed(
                "reward.center_on is demonstrations but the run has none; give "
                "data.demonstrations or set it to null"
            )
        scores = []
        for start in range(0, len(demos), _CHUNK):
            part = demos[start : start + _CHUNK]
            prompts = [d["prompt_ids"] for d in part]
            responses = [d["response_ids"] for d in part]
            scores.append(self.scorer.scores(collate(prompts, responses, self.text.pad_id)))
        self.scorer.offset = float(torch.cat(scores).double().mean())
        self.model.config.score_offset = self.scorer.offset

    def _accuracy(self) -> dict[str, Any]:
        parts: dict[str, Any] = {"score_offset": self.model.config.score_offset}
        parts["train"] = self.measure(self.train[:_TRAINED_ON])
        scores = self._scores(self.valid)
        parts["valid"] = self.measure(self.valid, scores)
        parts["by_k"] = self._by(scores, lambda record: str(len(record["ranks"])))
        parts["by_labeler"] = self._by(scores, lambda record: record.get("labeler"))
        parts["by_length"] = self._by(scores, length_range(self.valid))
        parts["by_round"] = self._by(scores, lambda record: record.get("round"))
        sources = by_source(self.valid, scores)
        parts["by_source"] = {name: self.measure(*own) for name, own in sources.items()}
        if self.others:
            parts["held_out_labelers"] = self.measure(self.others)
        if scores:
            flat = torch.cat(scores).cpu().numpy()
            counts, edges = np.histogram(flat, bins=24)
            parts["histogram"] = {"edges": edges.tolist(), "counts": counts.tolist()}
        return parts

    def _by(self, scores: list[Tensor], name_of: Callable[[Record], str | None]) -> dict[str, Any]:
        """Measure the held-out records of each name apart."""
        groups: dict[str, list[int]] = {}
        for place, record in enumerate(self.valid):
            if (name := name_of(record)) is not None:
                groups.setdefault(str(name), []).append(place)
        return {
            name: self.measure([self.valid[p] for p in places], [scores[p] for p in places])
            for name, places in sorted(groups.items())
        }

    @torch.no_grad()
    def _scores(self, records: list[Record]) -> list[Tensor]:
        """Scores of each record's answers, computed many records at a time."""
        scores: list[Tensor] = []
        for chunk in by_answers(records, _CHUNK):
            for part in by_answers(chunk, self._answers_a_pass(chunk)):
                flat = self.scorer.scores_of(self._collate(part))
                scores += flat.split([len(r["ranks"]) for r in part])
        return scores

    def measure(self, records: list[Record], scores: list[Tensor] | None = None) -> dict[str, Any]:
        """Accuracy over all comparable pairs of the records."""
        if not records:
            return {"pairs": 0}
        flat = torch.cat(self._scores(records) if scores is None else scores)
        loss, stats = self._loss(flat, records)
        pairs = int(stats["pairs"])
        if pairs == 0:
            return {"pairs": 0}
        return {"accuracy": float(stats["accuracy"]), "pairs": pairs, "loss": float(loss)}

    def _gate(self, valid: dict[str, Any]) -> str | None:
        gate, accuracy = self.config.gate, valid.get("accuracy")
        if gate is None or (accuracy is not None and accuracy >= gate.accuracy):
            return None
        got = "no held-out pair exists" if accuracy is None else f"{accuracy:.3f}"
        return (
            f"held-out accuracy of the reward model: {got}, reward.gate.accuracy asks for "
            f"{gate.accuracy}; "
            "collect more comparisons, train longer, or lower the gate"
        )


STAGE = Reward

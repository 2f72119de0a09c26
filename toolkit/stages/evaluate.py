"""Stage `evaluate`: the result against where it started, on held-out prompts.

Win rate = share of prompts on which the judge scores the learner's answer above SFT's, a tie
counting one half, with a 95 % interval of the mean that takes prompts of one group as one. The
reward model is also what PPO is trained on, so the oracle's verdict stands beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

import rlhf_kernels as rk
from toolkit.data.batches import collate, windows
from toolkit.data.lines import read_records, write_records
from toolkit.data.oracle import load_oracle
from toolkit.data.prepare import load_task
from toolkit.models.heads import Policy, Scorer
from toolkit.models.load import load_scalar
from toolkit.rollout import sample_answers
from toolkit.spec.errors import StageFailed
from toolkit.spec.schema import FROM_RANKINGS, Sampling
from toolkit.stages.contestants import contestants
from toolkit.stages.context import StageContext, StageResult
from toolkit.stages.own_answers import own_accuracy
from toolkit.stages.rows import write_answers, write_skills
from toolkit.stages.shared import (
    Record,
    load_sft,
    load_start,
    mean_cross_entropy,
    needed,
    pretrain_stream,
    reward_folder,
    stream_of,
    text_of,
)
from toolkit.stages.skills import clozes, complete, shares
from toolkit.stages.verdicts import over_optimisation, win_rate
from toolkit.training.device import move

_CHUNK = 256  # prompts answered together; the answers do not depend on it
_PERPLEXITY_LENGTH = 128


class Evaluate:
    """Measure one model per step, compare at the end."""

    def __init__(self, ctx: StageContext) -> None:
        """Remember the context."""
        self.ctx, self.config, self.stream = ctx, needed(ctx.spec.evaluate), stream_of(ctx)
        self.measured: dict[str, dict[str, Any]] = {}

    def setup(self) -> int:
        """Choose held-out prompts, judges and models."""
        ctx = self.ctx
        self.text = text_of(ctx)
        prompts = read_records(ctx.inputs["data"] / "prompts.valid.jsonl")
        if not prompts:
            raise StageFailed(
                "evaluate: no prompts are held out; raise data.split.valid or give more prompts"
            )
        count = min(self.config.prompts, len(prompts))
        self.prompts = [
            prompts[i] for i in self.stream.permutation(len(prompts), "prompts")[:count]
        ]
        self.oracle = load_oracle(ctx.spec)
        task = load_task(ctx.spec)
        judged = [p["prompt"] for p in self.prompts] if self.oracle is not None else []
        self.kinds = [] if task is None else task.categories(judged)
        group = getattr(task, "groups", None)
        self.groups: list[str] = [] if group is None else group([p["prompt"] for p in self.prompts])
        folder = reward_folder(ctx)
        reward = None if folder is None else load_scalar(folder, self.text, ctx.device)
        self.reward = None if reward is None else Scorer(reward, ctx.spec.hardware)
        self.sft = self.reference = self._policy(load_sft(ctx, self.text))
        if "init" in ctx.inputs:  # what the learner's KL was held to
            self.reference = self._policy(load_start(ctx, self.text))
        self.contestants = contestants(ctx, self.text, self.oracle)
        self.clozes = clozes(task, self.config.skills)
        return len(self.contestants)

    def _policy(self, model: Any) -> Policy:
        spec = self.ctx.spec
        return Policy(model, self.text.vocab, spec.hardware, self.config.temperature)

    def step(self, i: int) -> dict[str, float]:
        """Answer the prompts with model i, judge the answers, measure KL and perplexity."""
        name, contestant = list(self.contestants.items())[i]
        policy = self.sft
        if contestant.load is not None:
            policy = self._policy(contestant.load())
        rows = self._answers(policy, contestant.prefix)
        figures = {
            key: float(np.mean([r[key] for r in rows])) for key in ("length", "finished", "kl")
        }
        figures["eos_rate"] = figures.pop("finished")
        for judge in ("oracle", "reward"):
            if judge in rows[0]:
                figures[judge] = float(np.mean([r[judge] for r in rows]))
        if self.oracle is not None:
            figures["exact"] = float(np.mean([r["oracle"] >= 1.0 for r in rows]))
        held: dict[str, Any] = {"figures": figures, "rows": rows}
        if not contestant.prefix:
            held["skills"] = self._text_figures(policy, figures)
        self.measured[name] = held
        return figures

    def _text_figures(self, policy: Policy, figures: dict[str, float]) -> list[bool]:
        """Add perplexity and skills, which need no prompts; return which skill texts were right."""
        perplexity = self._perplexity(policy)
        if perplexity is not None:
            figures["perplexity"] = perplexity
        right: list[bool] = []
        if self.clozes:
            right = complete(policy, self.text, self.clozes, self.stream)
            figures.update(shares(self.clozes, right))
        return right

    def _answers(self, policy: Policy, prefix: Sequence[int]) -> list[Record]:
        """Answer and judge all prompts, those of like length together."""
        order = sorted(range(len(self.prompts)), key=lambda p: len(self.prompts[p]["prompt_ids"]))
        chunks = [order[a : a + _CHUNK] for a in range(0, len(order), _CHUNK)]
        rows = [row for chunk in chunks for row in self._answer(policy, chunk, prefix)]
        return [row for _, row in sorted(zip(order, rows, strict=True), key=lambda pair: pair[0])]

    def _answer(self, policy: Policy, places: list[int], prefix: Sequence[int]) -> list[Record]:
        """Answer and judge some prompts; every model draws with the same random numbers."""
        chosen = [self.prompts[p] for p in places]
        ids = [c["prompt_ids"] for c in chosen]
        read = [[*prefix, *own] for own in ids] if prefix else ids
        answers = sample_answers(
            policy,
            self.text,
            read,
            sampling=Sampling(temperature=self.config.temperature),
            draws=(self.stream, "answer", places),
            max_response=self.ctx.spec.text.max_response,
        )
        batch = collate(ids, answers.ids, self.text.pad_id)
        theirs = self.reference.logprobs(batch)[0]
        ours = theirs
        if policy is not self.reference:
            seen = collate(read, answers.ids, self.text.pad_id) if prefix else batch
            ours = policy.logprobs(seen)[0]
        mask = move(batch.mask, policy.device)
        kl = (rk.token_kl(ours, theirs, estimator="k1") * mask).sum(1).tolist()
        rows: list[Record] = [
            {
                "prompt": c["prompt"],
                "response": self.text.decode_response(a)[0],
                "finished": done,
                "length": len(a),
                "kl": k,
            }
            for c, a, done, k in zip(chosen, answers.ids, answers.finished, kl, strict=True)
        ]
        self._judge(rows, batch)
        return rows

    def _judge(self, rows: list[Record], batch: Any) -> None:
        verdicts: dict[str, list[float]] = {}
        if self.reward is not None:
            verdicts["reward"] = self.reward.scores(batch).tolist()
        if self.oracle is not None:
            columns = ([r[key] for r in rows] for key in ("prompt", "response", "finished"))
            verdicts["oracle"] = self.oracle(*columns)
        for judge, scores in verdicts.items():
            for row, score in zip(rows, scores, strict=True):
                row[judge] = float(score)

    @torch.no_grad()
    def _perplexity(self, policy: Policy) -> float | None:
        """Return exp of the mean token loss on held-out pretraining text, at temperature 1."""
        tokens = pretrain_stream(self.ctx, "valid")
        if tokens is None or self.config.perplexity_tokens == 0 or len(tokens) < 3:
            return None
        length = min(self._perplexity_length(policy), len(tokens) - 1)
        count = max(1, self.config.perplexity_tokens // length)
        starts = list(range(0, len(tokens) - length, length))[:count]
        plain = Policy(policy.model, policy.vocab, policy.hardware)
        parts = (starts[a : a + 32] for a in range(0, len(starts), 32))
        return math.exp(mean_cross_entropy(plain, (windows(tokens, p, length) for p in parts)))

    def _perplexity_length(self, policy: Policy) -> int:
        """Windows as long as those trained on: learned positions beyond them mean nothing."""
        spec = self.ctx.spec
        if spec.pretrain is not None:
            return spec.pretrain.length
        if spec.ppo is not None and spec.ppo.ptx is not None:
            return spec.ppo.ptx.length
        longest = getattr(policy.model.config, "max_position_embeddings", _PERPLEXITY_LENGTH)
        return min(_PERPLEXITY_LENGTH, int(longest))

    def state(self) -> dict[str, Any]:
        """What is measured so far."""
        return {"measured": self.measured}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self.measured = dict(state["measured"])

    def finish(self) -> StageResult:
        """Compare, warn, write."""
        models = {name: held["figures"] for name, held in self.measured.items()}
        decider = self._decider()
        result: dict[str, Any] = {"prompts": len(self.prompts), "models": models}
        warnings: list[str] = []
        if decider is not None:
            result["learner"] = self.ctx.spec.learner_name
            result["weights"] = decider.rpartition("_")[2]
            result["judges"] = self._win_rates(decider)
            sft, ours = self._judged("sft"), self._judged(decider)
            if self.ctx.spec.learner not in FROM_RANKINGS:  # those never see the reward model
                warnings = over_optimisation(sft, ours, self._curve(), self.groups)
            self._write_samples(decider)
            if self.oracle is not None and self.reward is not None:
                policy = self._policy(needed(self.contestants[decider].load)())
                result["own_answers"] = own_accuracy(
                    self.ctx, self.text, policy, self.prompts, self.oracle
                )
        names = {"kind": self.kinds, "group": self.groups}
        write_answers(self.ctx.work, self.prompts, names, self.measured)
        write_skills(self.ctx.work, self.clozes, self.measured)
        if self.kinds:
            result["by_kind"] = self._by_kind()
        path = self.ctx.inputs.get("reward")
        if path is not None:
            accuracy = json.loads((path / "accuracy.json").read_text())["valid"]
            result["reward_accuracy"] = accuracy.get("accuracy")
        result["warnings"] = warnings
        (self.ctx.work / "evaluation.json").write_text(json.dumps(result, indent=1))
        return StageResult(summary=result, warnings=tuple(warnings))

    def _decider(self) -> str | None:
        """Return the last learner's weights that decide: as asked, or the last where no others."""
        own = {c.weights: name for name, c in self.contestants.items() if c.weights is not None}
        return own.get(self.config.weights, own.get("last"))

    def _win_rates(self, decider: str) -> dict[str, Any]:
        ours, theirs = self.measured[decider]["rows"], self.measured["sft"]["rows"]
        return {
            judge: win_rate([r[judge] for r in ours], [r[judge] for r in theirs], self.groups)
            for judge in self.config.win_rate
            if judge in ours[0]
        }

    def _judged(self, name: str) -> dict[str, list[float]]:
        """Return each judge's values of one model's answers, prompt by prompt."""
        rows = self.measured[name]["rows"]
        values = {
            judge: [r[judge] for r in rows] for judge in ("oracle", "reward") if judge in rows[0]
        }
        if "oracle" in values:
            values["exact"] = [float(v >= 1.0) for v in values["oracle"]]
        return values

    def _by_kind(self) -> dict[str, Any]:
        """Break the oracle's score down by the task's kinds of instruction."""
        broken: dict[str, Any] = {}
        for kind in sorted(set(self.kinds)):
            places = [at for at, own in enumerate(self.kinds) if own == kind]
            broken[kind] = {"prompts": len(places)}
            for name, held in self.measured.items():
                mean = float(np.mean([held["rows"][at]["oracle"] for at in places]))
                broken[kind][name] = {"oracle": mean}
        return broken

    def _curve(self) -> list[Record]:
        """The learner's metrics, one record per step."""
        path = self.ctx.inputs["learner"] / "metrics.jsonl"
        return read_records(path) if path.exists() else []

    def _write_samples(self, decider: str) -> None:
        pairs = zip(self.measured["sft"]["rows"], self.measured[decider]["rows"], strict=True)
        kinds, learner = iter(self.kinds), needed(self.ctx.spec.learner)
        records = []
        for sft, ours in list(pairs)[: self.config.samples]:
            record: Record = {
                "prompt": sft["prompt"],
                "sft": sft["response"],
                learner: ours["response"],
            }
            if (kind := next(kinds, None)) is not None:
                record["kind"] = kind
            for judge in ("oracle", "reward"):
                if judge in sft:
                    record |= {f"{judge}_sft": sft[judge], f"{judge}_{learner}": ours[judge]}
            records.append(record)
        write_records(self.ctx.work / "samples.jsonl", records)


STAGE = Evaluate

"""Stage `collect`.

Sample K answers for each prompt from the policy or policies, to be ranked (InstructGPT 3.5).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from toolkit.data.lines import read_records, write_records
from toolkit.models.heads import Policy
from toolkit.models.load import load_policy
from toolkit.rollout import sample_answers
from toolkit.stages.context import StageContext, StageResult
from toolkit.stages.shared import Record, load_pretrained, load_sft, needed, stream_of, text_of
from toolkit.training.random import Stream

_FIRST = ("sft", "base", "ppo")  # sources before any folder


class Collect:
    """Sample answers, a chunk of prompts per step."""

    def __init__(self, ctx: StageContext) -> None:
        """Remember the context."""
        self.ctx, self.config, self.stream = ctx, needed(ctx.spec.collect), stream_of(ctx)
        self.records: dict[int, Record] = {}

    def setup(self) -> int:
        """Choose the prompts, their K, and who answers."""
        ctx, config = self.ctx, self.config
        self.text = text_of(ctx)
        prompts = read_records(ctx.inputs["data"] / "prompts.train.jsonl")
        count = min(config.prompts, len(prompts))
        self.prompts = [prompts[i] for i in self._chosen(len(prompts), count)]
        low, high = config.k
        self.k = self.stream.numpy("k").integers(low, high + 1, size=count)
        self.first = np.concatenate([[0], np.cumsum(self.k)])
        self.policies = {name: self._policy(name) for name in self._sources()}
        names = list(self.policies)
        weights = np.array([config.sources[name] for name in names])
        picks = self.stream.numpy("source").choice(
            len(names), size=int(self.first[-1]), p=weights / weights.sum()
        )
        self.source = [names[p] for p in picks]
        self.chunk = max(1, config.batch // high)
        # by length, for little padding; written in the order chosen above
        self.sequence = sorted(range(count), key=lambda p: len(self.prompts[p]["prompt_ids"]))
        return -(-count // self.chunk)

    def _chosen(self, prompts: int, count: int) -> np.ndarray:
        """Prompts of this round: one order for all rounds, each going on where the last ended."""
        order = Stream(self.ctx.spec.seed, self.ctx.kind, 1).permutation(prompts, "prompts")
        first = (self.ctx.round - 1) * count
        return order[np.arange(first, first + count) % prompts]

    def _sources(self) -> list[str]:
        """Sources that exist in this round: no PPO policy does before the first PPO.

        In an order of their own: results may not depend on the order that a spec names them in,
        which no key holds.
        """
        there = "learner" in self.ctx.inputs
        names = sorted(name for name in self.config.sources if name != "ppo" or there)
        return sorted(names, key=lambda name: (*_FIRST, name).index(name))

    def _policy(self, name: str) -> Policy:
        ctx, text = self.ctx, self.text
        if name == "sft":
            model = load_sft(ctx, text)
        elif name == "base":
            model = load_pretrained(ctx, text)
        elif name == "ppo":
            model = load_policy(ctx.inputs["learner"] / "policy", text, ctx.device)
        else:
            model = load_policy(Path(name), text, ctx.device)
        return Policy(model, text.vocab, ctx.spec.hardware, self.config.sampling.temperature)

    def step(self, i: int) -> dict[str, float]:
        """Answer one chunk of prompts; the K answers of a prompt share its reading."""
        span = self.sequence[i * self.chunk : (i + 1) * self.chunk]
        rows = [row for p in span for row in range(self.first[p], self.first[p + 1])]
        owner = {row: p for p in span for row in range(self.first[p], self.first[p + 1])}
        answers: dict[int, tuple[list[int], bool]] = {}
        for name, policy in self.policies.items():
            mine = [row for row in rows if self.source[row] == name]
            answers.update(self._answer(policy, mine, owner))
        self.records |= {p: self._record(p, answers) for p in span}
        lengths = [len(ids) for ids, _ in answers.values()]
        return {
            "answers": float(len(rows)),
            "length": float(np.mean(lengths)),
            "tokens": float(sum(lengths)),
            "eos_rate": float(np.mean([done for _, done in answers.values()])),
        }

    def _answer(
        self, policy: Policy, rows: list[int], owner: dict[int, int]
    ) -> dict[int, tuple[list[int], bool]]:
        if not rows:
            return {}
        out = sample_answers(
            policy,
            self.text,
            [self.prompts[owner[row]]["prompt_ids"] for row in rows],
            sampling=self.config.sampling,
            draws=(self.stream, "answer", rows),
            max_response=self.ctx.spec.text.max_response,
        )
        return dict(zip(rows, zip(out.ids, out.finished, strict=True), strict=True))

    def _record(self, p: int, answers: dict[int, tuple[list[int], bool]]) -> Record:
        rows = range(self.first[p], self.first[p + 1])
        ids = [answers[row][0] for row in rows]
        return {
            **self.prompts[p],
            "responses": [self.text.decode_response(i)[0] for i in ids],
            "responses_ids": ids,
            "finished": [answers[row][1] for row in rows],
            "source": [self.source[row] for row in rows],
        }

    def state(self) -> dict[str, Any]:
        """The answers so far."""
        return {"records": self.records}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`."""
        self.records = dict(state["records"])

    def finish(self) -> StageResult:
        """Write the answers."""
        records = [self.records[p] for p in sorted(self.records)]
        write_records(self.ctx.work / "samples.jsonl", records)
        answers = sum(len(r["responses"]) for r in records)
        pairs = sum(len(r["responses"]) * (len(r["responses"]) - 1) // 2 for r in records)
        return StageResult(
            summary={"prompts": len(self.records), "answers": answers, "pairs": pairs}
        )


STAGE = Collect

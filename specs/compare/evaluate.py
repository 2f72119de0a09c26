"""The one examiner of all competitors: it sees their Hugging Face folders and nothing else.

Every policy answers the same held-out prompts, `answers` times each at temperature 1 and once with
the most likely tokens; the task's oracle scores them. Padding is never drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from specs.compare.measure import Job, Measure, read_lines, serve
from toolkit.data.batches import pad
from toolkit.data.oracle import Oracle, load_oracle
from toolkit.data.tokenize import Text, load_text
from toolkit.spec.load import load_spec

Figures = dict[str, Any]


class Examiner:
    """The held-out prompts, and who judges the answers."""

    def __init__(self, job: Job) -> None:
        self.text: Text = load_text(job["models"]["base"])
        spec = load_spec(job["spec_file"], job["overrides"]).spec
        oracle = load_oracle(spec)
        assert oracle is not None
        self.oracle: Oracle = oracle
        self.seed, self.most = job["seed"], spec.text.max_response
        self.prompts = read_lines(Path(job["data"]) / "prompts.valid.jsonl")
        self.sampled = self.prompts * job["answers"]

    def examine(self, folder: str, reference: PreTrainedModel) -> Figures:
        """Return oracle score, exact answers, and KL to the reference in nats a token."""
        model = load_policy(folder)
        torch.manual_seed(self.seed)
        answers = self._answer(model, self.sampled, do_sample=True, temperature=1.0, top_k=0)
        greedy = self._answer(model, self.prompts, do_sample=False)
        scores = self._judge(self.sampled, answers)
        return {
            "oracle": mean(scores),
            "exact": mean([float(s >= 1.0) for s in scores]),
            "exact_greedy": mean([float(s >= 1.0) for s in self._judge(self.prompts, greedy)]),
            "ended": mean([float(self.text.eos_id in a) for a in answers]),
            "kl": self._kl(model, reference, answers),
        }

    @torch.no_grad()
    def _answer(self, model: Any, prompts: list[dict[str, Any]], **how: Any) -> list[list[int]]:
        text, rows = self.text, [p["prompt_ids"] for p in prompts]
        width = max(map(len, rows))
        ids = torch.tensor([[text.pad_id] * (width - len(row)) + row for row in rows])
        out = model.generate(
            ids,
            attention_mask=(ids != text.pad_id).long(),
            max_new_tokens=self.most,
            eos_token_id=text.eos_id,
            pad_token_id=text.pad_id,
            suppress_tokens=[text.pad_id],
            **how,
        )
        return [cut(row, text.eos_id) for row in out[:, width:].tolist()]

    def _judge(self, prompts: list[dict[str, Any]], answers: list[list[int]]) -> list[float]:
        decoded = [self.text.decode_response(answer) for answer in answers]
        texts, ended = [t for t, _ in decoded], [e for _, e in decoded]
        return self.oracle([p["prompt"] for p in prompts], texts, ended)

    @torch.no_grad()
    def _kl(self, model: Any, reference: Any, answers: list[list[int]]) -> float:
        prompts = [p["prompt_ids"] for p in self.sampled]
        ids = pad([p + a for p, a in zip(prompts, answers, strict=True)], self.text.pad_id)
        place = torch.arange(ids.shape[1] - 1)
        starts = torch.tensor([len(p) - 1 for p in prompts]).unsqueeze(1)
        mask = (place >= starts) & (ids[:, 1:] != self.text.pad_id)
        difference = self._logprobs(model, ids) - self._logprobs(reference, ids)
        return float((difference * mask).sum() / mask.sum())

    def _logprobs(self, model: Any, ids: Tensor) -> Tensor:
        logits = model(ids).logits[:, :-1, : self.text.vocab].float()
        targets = ids[:, 1:].clamp(max=self.text.vocab - 1).unsqueeze(-1)
        return torch.log_softmax(logits, dim=-1).gather(-1, targets).squeeze(-1)

    @torch.no_grad()
    def accuracy(self, folder: str, rankings: list[dict[str, Any]]) -> float:
        """Return the share of held-out pairs, ties apart, that a reward model orders rightly."""
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1).eval()
        rows = [r["prompt_ids"] + a for r in rankings for a in r["responses_ids"]]
        ids = pad(rows, self.text.pad_id)
        scores = iter(model(ids, attention_mask=ids != self.text.pad_id).logits[:, 0].tolist())
        right: list[float] = []
        for record in rankings:
            mine = [(rank, next(scores)) for rank in record["ranks"]]
            right += [
                float(high > low) for rank, high in mine for other, low in mine if rank < other
            ]
        return mean(right)


def load_policy(folder: str) -> Any:
    """Load a language model in fp32, whatever its folder says of sampling."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config = type(model.generation_config)()
    return model


def cut(row: list[int], end: int) -> list[int]:
    """Return the tokens up to and with the first `end`."""
    return row[: row.index(end) + 1] if end in row else row


def mean(values: list[float]) -> float:
    """Return the mean; not a number for nothing."""
    return sum(values) / len(values) if values else float("nan")


def evaluate(job: Job, measure: Measure) -> Figures:
    """Examine the policies, against the one named sft, and the reward model."""
    del measure
    examiner = Examiner(job)
    reference = load_policy(job["policies"]["sft"])
    figures: Figures = {
        name: examiner.examine(folder, reference) for name, folder in job["policies"].items()
    }
    rankings = read_lines(Path(job["data"]) / "rankings.valid.jsonl")
    return {**figures, "reward_accuracy": examiner.accuracy(job["models"]["reward"], rankings)}


if __name__ == "__main__":
    serve({"evaluate": evaluate})

"""Stages 1 and 2 as a plain PyTorch loop: torch and transformers, no framework, no kernels of ours.

`python -m specs.compare.plain_stages job.json`. Stage 3 stands in plain_ppo.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from specs.compare.measure import Job, Measure, read_lines, serve
from specs.compare.pairs import ordered_pairs
from specs.compare.rows import check_names

Records = list[dict[str, Any]]


def computing(job: Job) -> AbstractContextManager[Any]:
    """Return the job's precision: autocast for bf16, weights in fp32 either way."""
    if job["precision"] == "fp32":
        return nullcontext()
    return torch.autocast(job.get("device", "cpu"), dtype=torch.bfloat16)


def load_tokenizer(job: Job) -> PreTrainedTokenizerFast:
    """Load the tokenizer that lies beside the base model."""
    return PreTrainedTokenizerFast.from_pretrained(job["models"]["base"])


def pad_right(rows: list[list[int]], value: int) -> Tensor:
    """Pad token lists to [B, longest]."""
    return nn.utils.rnn.pad_sequence(
        [torch.tensor(row) for row in rows], batch_first=True, padding_value=value
    )


def make_optimizer(model: nn.Module, lr: float, config: dict[str, Any]) -> torch.optim.AdamW:
    """AdamW as the spec has it; weight decay on matrices only."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config["weight_decay"]},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=lr, betas=tuple(config["betas"]), eps=config["eps"], fused=True
    )


def make_schedule(
    optimizer: torch.optim.Optimizer, config: dict[str, Any], total: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Rise over `warmup` steps; then cosine, linear or constant, from 1 to `floor` of the peak."""
    floor, warmup = config["floor"], config["warmup"]
    shapes = {
        "cosine": lambda x: floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * x)),
        "linear": lambda x: 1 - (1 - floor) * x,
        "constant": lambda x: 1.0,
    }
    shape, after = shapes[config["name"]], max(1, total - warmup)

    def rate(step: int) -> float:
        if step < warmup:
            return (1 + (warmup - 1) * step / warmup) / warmup
        return shape(min(1.0, (step - warmup) / after))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, rate)


def update(model: nn.Module, optimizer: Any, schedule: Any, clip: float | None) -> None:
    """Clip, step, advance the rate, clear."""
    if clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()


def batches(count: int, size: int, epochs: int, seed: int) -> Iterator[list[int]]:
    """Yield shuffled indices; each epoch sees every example once."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator)
        yield from (part.tolist() for part in order.split(size))


def sft(job: Job, measure: Measure) -> dict[str, Any]:
    """Cross-entropy of response tokens."""
    config, tokenizer = job["spec"]["sft"], load_tokenizer(job)
    records = read_lines(Path(job["data"]) / "demonstrations.jsonl")
    model = AutoModelForCausalLM.from_pretrained(job["models"]["base"]).eval()
    total = config["epochs"] * math.ceil(len(records) / config["batch"])
    optimizer = make_optimizer(model, config["lr"], config["optimizer"])
    schedule = make_schedule(optimizer, config["schedule"], total)
    for rows in batches(len(records), config["batch"], config["epochs"], job["seed"]):
        with computing(job):
            loss = response_loss(model, [records[r] for r in rows], tokenizer.pad_token_id)
        loss.backward()
        update(model, optimizer, schedule, config["optimizer"]["clip_norm"])
        measure.step()
    save(model, tokenizer, job)
    settings = {
        "examples": len(records),
        "batch": config["batch"],
        "optimizer steps": len(measure.steps),
        **rate_settings(config),
        "loss on": "response",
        "dropout": None,
        "head": "every position",
        **run_settings(job),
    }
    check_names("sft", settings)
    return settings


def response_loss(model: PreTrainedModel, records: Records, pad: int) -> Tensor:
    """Mean cross-entropy over the batch's response tokens."""
    ids = pad_right([r["prompt_ids"] + r["response_ids"] for r in records], pad)
    labels = [[-100] * len(r["prompt_ids"]) + r["response_ids"] for r in records]
    logits = model(ids, attention_mask=ids != pad).logits[:, :-1, :pad]
    return F.cross_entropy(logits.flatten(0, 1), pad_right(labels, -100)[:, 1:].flatten())


def reward(job: Job, measure: Measure) -> dict[str, Any]:
    """Every pair of a prompt's answers, each answer forwarded once."""
    config, tokenizer = job["spec"]["reward"], load_tokenizer(job)
    torch.manual_seed(job["seed"])
    pad = tokenizer.pad_token_id
    records = read_lines(Path(job["data"]) / "rankings.jsonl")
    model = AutoModelForSequenceClassification.from_pretrained(
        job["models"]["sft"], num_labels=1, pad_token_id=pad
    ).eval()
    nn.init.normal_(
        model.score.weight, std=config["head_std"] or (model.score.in_features + 1) ** -0.5
    )
    total = config["epochs"] * math.ceil(len(records) / config["batch"])
    optimizer = make_optimizer(model, config["lr"], config["optimizer"])
    schedule = make_schedule(optimizer, config["schedule"], total)
    for rows in batches(len(records), config["batch"], config["epochs"], job["seed"]):
        chosen = [records[r] for r in rows]
        with computing(job):
            scores = score(model, answers_of(chosen), pad)
        ranking_loss(scores.float(), chosen, config["ties"]).backward()
        update(model, optimizer, schedule, config["optimizer"]["clip_norm"])
        measure.step()
    centre(model, job, pad)
    save(model, tokenizer, job)
    settings = {
        "prompts": len(records),
        "pairs": "all of a prompt",
        "pairs a step": f"of {config['batch']} prompts",
        "optimizer steps": len(measure.steps),
        **rate_settings(config),
        "ties": config["ties"],
        "new head": f"normal, {config['head_std'] or '1/sqrt(d + 1)'}",
        "scores centred": f"on {config['center_on']}" if config["center_on"] else None,
        **run_settings(job),
    }
    check_names("reward", settings)
    return settings


def answers_of(records: Records) -> list[list[int]]:
    """Prompt and answer of all answers, in order."""
    return [r["prompt_ids"] + answer for r in records for answer in r["responses_ids"]]


def score(model: PreTrainedModel, rows: list[list[int]], pad: int) -> Tensor:
    """Scores [B], read at the last token."""
    ids = pad_right(rows, pad)
    return model(ids, attention_mask=ids != pad).logits[:, 0]


def ranking_loss(scores: Tensor, records: Records, ties: str) -> Tensor:
    """Mean over prompts of the mean over pairs of -log sigmoid(better - worse)."""
    better, worse, weight, start, prompts = [], [], [], 0, 0
    for record in records:
        pairs = ordered_pairs(record["ranks"], ties)
        share = sum(w for _, _, w in pairs)
        better += [start + i for i, _, _ in pairs]
        worse += [start + j for _, j, _ in pairs]
        weight += [w / share for _, _, w in pairs]
        start, prompts = start + len(record["ranks"]), prompts + bool(pairs)
    losses = -F.logsigmoid(scores[better] - scores[worse])
    return (torch.tensor(weight) * losses).sum() / max(1, prompts)


@torch.no_grad()
def centre(model: PreTrainedModel, job: Job, pad: int) -> None:
    """Write the demonstrations' mean score as `score_offset`, which PPO subtracts."""
    model.config.score_offset = 0.0
    if job["spec"]["reward"]["center_on"] is not None:
        demos = read_lines(Path(job["data"]) / "demonstrations.jsonl")[:2048]
        rows = [r["prompt_ids"] + r["response_ids"] for r in demos]
        parts = [score(model, rows[a : a + 256], pad) for a in range(0, len(rows), 256)]
        model.config.score_offset = float(torch.cat(parts).mean())


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, job: Job) -> None:
    """Write a Hugging Face folder."""
    folder = Path(job["out"]) / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def optimizer_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Settings of AdamW, for the table."""
    return {
        "betas": list(config["betas"]),
        "epsilon": config["eps"],
        "weight decay": config["weight_decay"],
        "gradient clip": config["clip_norm"],
    }


def rate_settings(config: dict[str, Any]) -> dict[str, Any]:
    """Learning rate, schedule and AdamW of sft and reward, for the table."""
    schedule = config["schedule"]
    return {
        "learning rate": config["lr"],
        "schedule": f"{schedule['name']} to {schedule['floor']:g}",
        "warmup steps": schedule["warmup"],
        **optimizer_settings(config["optimizer"]),
    }


def run_settings(job: Job) -> dict[str, Any]:
    """Settings of every stage, for the table."""
    return {
        "precision": job["precision"],
        "threads": torch.get_num_threads(),
        "order of examples": "drawn by the seed",
        "padding in the softmax": False,
    }


if __name__ == "__main__":
    from specs.compare.plain_ppo import ppo

    serve({"sft": sft, "reward": reward, "ppo": ppo})

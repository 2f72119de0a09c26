"""Stages 1 and 2 with TRL 1.12.0, unpatched; stage 3 stands in trl_ppo.py.

Runs in its own environment and reads nothing of ours but the job, the JSON Lines and the folders.
Where TRL has the choice, it gets the spec's value; where it has none, its own default stands.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from specs.compare.measure import Job, Measure, read_lines, serve
from specs.compare.pairs import preferences
from specs.compare.rows import check_names


class Clock(TrainerCallback):
    """Notes when steps end, through TRL's own hook."""

    def __init__(self, measure: Measure) -> None:
        self.measure = measure

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Note the end of a step."""
        self.measure.step()


def common(job: Job) -> dict[str, Any]:
    """Arguments of every trainer: quiet, no recomputed activations, no evaluation."""
    return {
        "output_dir": str(Path(job["out"]) / "trainer"),
        "use_cpu": job.get("device", "cpu") == "cpu",
        "bf16": job["precision"] == "bf16",
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": job["seed"],
    }


def trained(config: dict[str, Any]) -> dict[str, Any]:
    """Arguments of AdamW and of the schedule, from the spec's section."""
    schedule, optimizer = config["schedule"], config["optimizer"]
    if schedule["name"] == "cosine" and schedule["floor"] > 0.0:
        rate = {
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr_rate": schedule["floor"]},
        }
    elif schedule["name"] == "constant" and schedule["warmup"]:
        rate = {"lr_scheduler_type": "constant_with_warmup"}
    else:
        rate = {"lr_scheduler_type": schedule["name"]}
    return {
        "learning_rate": config["lr"],
        "num_train_epochs": config["epochs"],
        "adam_beta1": optimizer["betas"][0],
        "adam_beta2": optimizer["betas"][1],
        "adam_epsilon": optimizer["eps"],
        "weight_decay": optimizer["weight_decay"],
        "max_grad_norm": optimizer["clip_norm"] or 0.0,
        "warmup_steps": schedule["warmup"],
        **rate,
    }


def rate_settings(args: Any, floor: float) -> dict[str, Any]:
    """Learning rate, schedule and AdamW, for the table, as the trainer has them."""
    name = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    name = name.removesuffix("_with_min_lr").removesuffix("_with_warmup")
    return {
        "learning rate": args.learning_rate,
        "schedule": f"{name} to {floor:g}",
        "warmup steps": args.warmup_steps,
        "betas": [args.adam_beta1, args.adam_beta2],
        "epsilon": args.adam_epsilon,
        "weight decay": args.weight_decay,
        "gradient clip": args.max_grad_norm or None,
    }


def run_settings(args: Any) -> dict[str, Any]:
    """Settings of every stage, for the table."""
    return {
        "precision": "bf16" if args.bf16 else "fp32",
        "threads": torch.get_num_threads(),
        "order of examples": "TRL's own",
        "padding in the softmax": True,
    }


def sft(job: Job, measure: Measure) -> dict[str, Any]:
    """SFTTrainer on token ids with a completion mask."""
    config = job["spec"]["sft"]
    tokenizer = AutoTokenizer.from_pretrained(job["models"]["base"])
    records = read_lines(Path(job["data"]) / "demonstrations.jsonl")
    rows = [
        {
            "input_ids": r["prompt_ids"] + r["response_ids"],
            "completion_mask": [0] * len(r["prompt_ids"]) + [1] * len(r["response_ids"]),
        }
        for r in records
    ]
    args = SFTConfig(
        **common(job),
        **trained(config),
        per_device_train_batch_size=config["batch"],
        completion_only_loss=True,
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(job["models"]["base"]),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[Clock(measure)],
    )
    trainer.train()
    trainer.save_model(str(Path(job["out"]) / "model"))
    settings = {
        "examples": len(records),
        "batch": args.per_device_train_batch_size,
        "optimizer steps": trainer.state.global_step,
        **rate_settings(args, config["schedule"]["floor"]),
        "loss on": "response",
        "dropout": dropout_of(trainer.model),
        "head": "response tokens" if args.loss_type == "chunked_nll" else "every position",
        **run_settings(args),
    }
    check_names("sft", settings)
    return settings


def dropout_of(model: torch.nn.Module) -> float | None:
    """Return the largest share that a model in training drops; None for none."""
    return (
        max((m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)), default=0.0) or None
    )


def reward(job: Job, measure: Measure) -> dict[str, Any]:
    """RewardTrainer on pairs, in as many steps as the spec's batch of prompts makes."""
    config = job["spec"]["reward"]
    tokenizer = AutoTokenizer.from_pretrained(job["models"]["base"])
    records = read_lines(Path(job["data"]) / "rankings.jsonl")
    pairs = preferences(records)
    steps = math.ceil(len(records) / config["batch"])
    args = RewardConfig(
        **common(job),
        **trained(config),
        per_device_train_batch_size=math.ceil(len(pairs) / steps),
    )
    trainer = RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(
            job["models"]["sft"], num_labels=1
        ),
        args=args,
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
        callbacks=[Clock(measure)],
    )
    trainer.train()
    trainer.save_model(str(Path(job["out"]) / "model"))
    settings = {
        "prompts": len(records),
        "pairs": len(pairs),
        "pairs a step": args.per_device_train_batch_size,
        "optimizer steps": trainer.state.global_step,
        **rate_settings(args, config["schedule"]["floor"]),
        "ties": "drop",
        "new head": "transformers' own",
        "scores centred": args.center_rewards_coefficient,
        **run_settings(args),
    }
    check_names("reward", settings)
    return settings


if __name__ == "__main__":
    from specs.compare.trl_ppo import ppo

    serve({"sft": sft, "reward": reward, "ppo": ppo})

"""The three stages with TRL 1.12.0, unpatched: `python -m specs.compare.trl_stages job.json`.

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
from trl.experimental.ppo import PPOConfig, PPOTrainer

from specs.compare.measure import Job, Measure, read_lines, serve
from specs.compare.pairs import preferences
from specs.compare.rows import check_names

MISSING_EOS_PENALTY = 1.0  # what TRL's own PPO example passes


class Clock(TrainerCallback):
    """Notes when steps end, through TRL's own hook."""

    def __init__(self, measure: Measure) -> None:
        self.measure = measure

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Note the end of a step."""
        self.measure.step()


def common(job: Job) -> dict[str, Any]:
    """Arguments of every trainer: quiet, on the CPU, no recomputed activations, no evaluation."""
    return {
        "output_dir": str(Path(job["out"]) / "trainer"),
        "use_cpu": True,
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
        **rate,
    }


def rate_settings(args: Any, floor: float) -> dict[str, Any]:
    """Learning rate, schedule and AdamW, for the table, as the trainer has them."""
    name = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    return {
        "learning rate": args.learning_rate,
        "schedule": f"{name.removesuffix('_with_min_lr')} to {floor:g}",
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
        "head": "response tokens" if args.loss_type == "chunked_nll" else "every position",
        **run_settings(args),
    }
    check_names("sft", settings)
    return settings


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


def ppo(job: Job, measure: Measure) -> dict[str, Any]:
    """PPOTrainer; policy and value learning rates through an optimizer with two groups."""
    config, models = job["spec"]["ppo"], job["models"]
    tokenizer = AutoTokenizer.from_pretrained(models["base"], padding_side="left")
    prompts = read_lines(Path(job["data"]) / "prompts.jsonl")
    args = ppo_arguments(job)

    def scalar(name: str) -> Any:
        folder = models[name]
        return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)

    policy, value = AutoModelForCausalLM.from_pretrained(models["sft"]), scalar(value_source(job))
    optimizer = torch.optim.AdamW(
        [
            {"params": list(policy.parameters()), "lr": config["lr"]},
            {"params": list(value.parameters()), "lr": config["value"]["lr"]},
        ],
        betas=tuple(config["optimizer"]["betas"]),
        eps=config["optimizer"]["eps"],
        weight_decay=config["optimizer"]["weight_decay"],
        fused=True,
    )
    iterations = config["episodes"] // config["batch"]
    anneal = config["anneal"]
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: max(0.0, 1 - step / iterations) if anneal else 1.0
    )
    taken = count_steps(optimizer)
    trainer = PPOTrainer(
        args=args,
        processing_class=tokenizer,
        model=policy,
        ref_model=AutoModelForCausalLM.from_pretrained(models["sft"]),
        reward_model=scalar("reward"),
        value_model=value,
        train_dataset=Dataset.from_list([{"input_ids": r["prompt_ids"]} for r in prompts]),
        optimizers=(optimizer, schedule),
        callbacks=[Clock(measure)],
    )
    trainer.train()
    trainer.save_model(str(Path(job["out"]) / "model"))
    settings = ppo_settings(job, args, optimizer, len(taken))
    check_names("ppo", settings)
    return settings


def count_steps(optimizer: torch.optim.Optimizer) -> list[int]:
    """Return a list that grows by one with every step of the optimizer."""
    taken: list[int] = []
    optimizer.register_step_post_hook(lambda *_: taken.append(1))
    return taken


def value_source(job: Job) -> str:
    """Name the model that the value function starts as."""
    return str(job["spec"]["ppo"]["value"]["init"])


def ppo_arguments(job: Job) -> PPOConfig:
    """Return PPOConfig from the spec."""
    config = job["spec"]["ppo"]
    return PPOConfig(
        **common(job),
        total_episodes=config["episodes"],
        per_device_train_batch_size=config["batch"],
        num_mini_batches=config["batch"] // config["minibatch"],
        num_ppo_epochs=config["inner_epochs"],
        local_rollout_forward_batch_size=config["batch"],
        num_sample_generations=0,
        response_length=job["spec"]["text"]["max_response"],
        stop_token="eos",
        temperature=config["temperature"],
        missing_eos_penalty=MISSING_EOS_PENALTY if config["no_eos"] else None,
        kl_coef=config["kl"]["coef"],
        cliprange=config["cliprange"],
        cliprange_value=config["value"]["cliprange"],
        vf_coef=config["value"]["vf_coef"],
        gamma=config["gamma"],
        lam=config["lam"],
    )


def ppo_settings(job: Job, args: PPOConfig, optimizer: Any, steps: int) -> dict[str, Any]:
    """Settings of ppo, for the table, as the trainer has them."""
    config = job["spec"]["ppo"]
    group, penalty = optimizer.param_groups[0], args.missing_eos_penalty
    return {
        "episodes": args.total_episodes,
        "batch": args.batch_size,
        "optimizer steps": steps,
        "learning rate": config["lr"],
        "value learning rate": config["value"]["lr"],
        "schedule": "linear to 0" if config["anneal"] else "constant",
        "betas": list(group["betas"]),
        "epsilon": group["eps"],
        "weight decay": group["weight_decay"],
        "gradient clip": None,
        "KL coefficient": args.kl_coef,
        "gamma": args.gamma,
        "lambda": args.lam,
        "ratio clip": args.cliprange,
        "value clip": args.cliprange_value,
        "value loss weight": args.vf_coef,
        "whitened": "both" if args.whiten_rewards else "advantages",
        "temperature": args.temperature,
        "new tokens at most": args.response_length,
        "without end-of-text": f"score less {penalty:g}" if penalty else None,
        "value model from": value_source(job),
        "policy and value": "one loss, one optimizer, two rates",
        "rollout": "transformers' generate",
        **run_settings(args),
    }


if __name__ == "__main__":
    serve({"sft": sft, "reward": reward, "ppo": ppo})

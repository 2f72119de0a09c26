"""Stage 3 with TRL 1.12.0, unpatched: its PPOTrainer, from the spec's values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer

from specs.compare.measure import Job, Measure, read_lines
from specs.compare.rows import check_names
from specs.compare.trl_stages import Clock, common, run_settings

MISSING_EOS_PENALTY = 1.0  # what TRL's own PPO example passes


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
    if not job.get("large"):
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

"""Stage 3 as a plain PyTorch loop: torch and transformers, no framework, no kernels of ours.

Dims: B episodes, P prompt tokens (left-padded), T response tokens, V softmax width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from specs.compare.measure import Job, Measure, read_lines
from specs.compare.plain_stages import (
    batches,
    computing,
    load_tokenizer,
    make_optimizer,
    make_schedule,
    optimizer_settings,
    run_settings,
    save,
    update,
)
from specs.compare.rows import check_names


@dataclass
class Models:
    """Four models, all in evaluation mode."""

    policy: PreTrainedModel
    reference: PreTrainedModel
    value: PreTrainedModel
    reward: PreTrainedModel


@dataclass
class Rollout:
    """Token ids [B, P + T], what is real in them, and which of the T tokens count."""

    ids: Tensor
    attention: Tensor
    mask: Tensor

    @property
    def inputs(self) -> dict[str, Any]:
        """Arguments of a forward pass."""
        positions = (self.attention.cumsum(1) - 1).clamp(min=0)
        return {
            "input_ids": self.ids,
            "attention_mask": self.attention,
            "position_ids": positions,
            "use_cache": False,
        }

    @property
    def width(self) -> int:
        """T."""
        return self.mask.shape[1]


def load_models(job: Job) -> Models:
    """Load policy, reference, value and reward model, to compute in the job's precision."""
    models, init = job["models"], job["spec"]["ppo"]["value"]["init"]

    def ready(kind: Any, name: str, **options: Any) -> PreTrainedModel:
        model = kind.from_pretrained(models[name], **options).eval()
        if job["precision"] != "fp32":
            for part in (model, model.base_model):  # as accelerate does it
                part.forward = computing(job)(part.forward)
        return model.to(job.get("device", "cpu"))

    loaded = Models(
        policy=ready(AutoModelForCausalLM, "sft"),
        reference=ready(AutoModelForCausalLM, "sft"),
        value=ready(AutoModelForSequenceClassification, init, num_labels=1),
        reward=ready(AutoModelForSequenceClassification, "reward", num_labels=1),
    )
    loaded.reference.requires_grad_(False)
    loaded.reward.requires_grad_(False)
    return loaded


def ppo(job: Job, measure: Measure) -> dict[str, Any]:
    """Sample, score, one pass of updates, again."""
    config, tokenizer = job["spec"]["ppo"], load_tokenizer(job)
    torch.manual_seed(job["seed"])
    models = load_models(job)
    prompts = [r["prompt_ids"] for r in read_lines(Path(job["data"]) / "prompts.jsonl")]
    iterations = config["episodes"] // config["batch"]
    steps = iterations * config["inner_epochs"] * (config["batch"] // config["minibatch"])
    plan = {"name": "linear" if config["anneal"] else "constant", "floor": 0.0, "warmup": 0}
    trained = []
    for model, lr in ((models.policy, config["lr"]), (models.value, config["value"]["lr"])):
        optimizer = make_optimizer(model, lr, config["optimizer"])
        trained.append((model, optimizer, make_schedule(optimizer, plan, steps)))
    epochs = -(-config["episodes"] // len(prompts))
    order = batches(len(prompts), config["batch"], epochs + 1, job["seed"])
    updates = 0
    for _ in range(iterations):
        rows = next(part for part in order if len(part) == config["batch"])
        rollout = sample(models.policy, [prompts[r] for r in rows], tokenizer, job)
        updates += improve(models, trained, rollout, tokenizer, config)
        measure.step()
    if not job.get("large"):
        save(models.policy, tokenizer, job)
    settings = ppo_settings(job, updates)
    check_names("ppo", settings)
    return settings


def sample(
    policy: PreTrainedModel, prompts: list[list[int]], tokenizer: PreTrainedTokenizerFast, job: Job
) -> Rollout:
    """Answer prompts with transformers' own generate, which has a KV cache."""
    tokenizer.padding_side = "left"
    batch = tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(policy.device)
    with torch.no_grad(), computing(job):
        ids = policy.generate(
            **batch,
            do_sample=True,
            temperature=job["spec"]["ppo"]["temperature"],
            top_k=0,
            max_new_tokens=job["spec"]["text"]["max_response"],
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            suppress_tokens=[tokenizer.pad_token_id],
        )
    ended = ids[:, batch["input_ids"].shape[1] :] == tokenizer.eos_token_id
    mask = (ended.cumsum(1) - ended.long()) == 0
    return Rollout(ids, torch.cat([batch["attention_mask"], mask.long()], dim=1), mask)


def logprobs_of(model: PreTrainedModel, rollout: Rollout, vocab: int, temperature: float) -> Tensor:
    """Log-probs of the response tokens [B, T]."""
    width = rollout.width
    logits = model(**rollout.inputs, logits_to_keep=width + 1).logits[:, :-1, :vocab].float()
    chosen = rollout.ids[:, -width:].clamp(max=vocab - 1)
    logprobs = torch.log_softmax(logits / temperature, dim=-1)
    return logprobs.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)


def hidden_of(model: PreTrainedModel, rollout: Rollout) -> Tensor:
    """Last hidden states [B, P + T, D]."""
    return model.base_model(**rollout.inputs).last_hidden_state


def values_of(model: PreTrainedModel, rollout: Rollout) -> Tensor:
    """Values [B, T], each before its token."""
    hidden = hidden_of(model, rollout)[:, -rollout.width - 1 : -1]
    return model.score(hidden).squeeze(-1)


def scores_of(model: PreTrainedModel, rollout: Rollout) -> Tensor:
    """Scores [B], read at the last real token."""
    last = rollout.ids.shape[1] - rollout.width + rollout.mask.sum(1) - 1
    hidden = hidden_of(model, rollout)[torch.arange(len(last)), last]
    return model.score(hidden).squeeze(-1) - getattr(model.config, "score_offset", 0.0)


def improve(
    models: Models,
    trained: list[Any],
    rollout: Rollout,
    tokenizer: PreTrainedTokenizerFast,
    config: dict[str, Any],
) -> int:
    """Turn a rollout into advantages and take the optimizer steps; return how many."""
    vocab, mask = tokenizer.pad_token_id, rollout.mask
    offset = getattr(models.value.config, "score_offset", 0.0)
    temperature = config["temperature"]
    with torch.no_grad():
        old = logprobs_of(models.policy, rollout, vocab, temperature)
        reference = logprobs_of(models.reference, rollout, vocab, temperature)
        values = (values_of(models.value, rollout) - offset) * mask
        scores = scores_of(models.reward, rollout)
        if config["no_eos"] is not None:
            responses = rollout.ids[:, -rollout.width :]
            finished = (responses == tokenizer.eos_token_id).any(1)
            scores = torch.where(finished, scores, config["no_eos"]["score"])
        rewards = -config["kl"]["coef"] * (old - reference) * mask
        rewards[torch.arange(len(scores)), mask.sum(1) - 1] += scores
        advantages, returns = estimate(rewards, values, mask, config)
    updates = 0
    for _ in range(config["inner_epochs"]):
        order = torch.randperm(len(scores)).to(scores.device)
        for rows in order.split(config["minibatch"]):
            part = Rollout(rollout.ids[rows], rollout.attention[rows], mask[rows])
            logprobs = logprobs_of(models.policy, part, vocab, temperature)
            policy_loss(logprobs, old[rows], advantages[rows], part.mask, config).backward()
            now = values_of(models.value, part) - offset
            value_loss(now, values[rows], returns[rows], part.mask, config).backward()
            for model, optimizer, schedule in trained:
                update(model, optimizer, schedule, config["optimizer"]["clip_norm"])
            updates += 1
    return updates


def estimate(
    rewards: Tensor, values: Tensor, mask: Tensor, config: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """GAE; advantages [B, T] whitened, returns [B, T]."""
    gamma, decay = config["gamma"], config["gamma"] * config["lam"]
    last, following = torch.zeros_like(rewards[:, 0]), torch.zeros_like(rewards[:, 0])
    found = torch.zeros_like(rewards)
    for t in reversed(range(rewards.shape[1])):
        last = (rewards[:, t] + gamma * following - values[:, t] + decay * last) * mask[:, t]
        following, found[:, t] = values[:, t], last
    real = found[mask]
    whitened = (found - real.mean()) / (real.std() + 1e-8) * mask
    return whitened if config["whiten"] == "advantages" else found, found + values


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values that count."""
    return (values * mask).sum() / mask.sum()


def policy_loss(
    logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, config: dict[str, Any]
) -> Tensor:
    """The clipped objective, negated."""
    ratio = torch.exp((logprobs - old) * mask)
    clip = config["cliprange"]
    worst = torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return -masked_mean(worst, mask)


def value_loss(
    values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, config: dict[str, Any]
) -> Tensor:
    """Half the squared error, the larger of clipped and not."""
    clip = config["value"]["cliprange"]
    near = old + (values - old).clamp(-clip, clip)
    worst = torch.max((values - returns).square(), (near - returns).square())
    return config["value"]["vf_coef"] * 0.5 * masked_mean(worst, mask)


def ppo_settings(job: Job, updates: int) -> dict[str, Any]:
    """Settings of ppo, for the table."""
    config = job["spec"]["ppo"]
    lost = config["no_eos"]
    return {
        "episodes": config["episodes"],
        "batch": config["batch"],
        "optimizer steps": updates,
        "learning rate": config["lr"],
        "value learning rate": config["value"]["lr"],
        "schedule": "linear to 0" if config["anneal"] else "constant",
        **optimizer_settings(config["optimizer"]),
        "KL coefficient": config["kl"]["coef"],
        "gamma": config["gamma"],
        "lambda": config["lam"],
        "ratio clip": config["cliprange"],
        "value clip": config["value"]["cliprange"],
        "value loss weight": config["value"]["vf_coef"],
        "whitened": config["whiten"],
        "temperature": config["temperature"],
        "new tokens at most": job["spec"]["text"]["max_response"],
        "without end-of-text": f"score {lost['score']:g}" if lost else None,
        "value model from": config["value"]["init"],
        "policy and value": "two optimizers",
        "rollout": "transformers' generate",
        **run_settings(job),
    }

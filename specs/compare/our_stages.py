"""One stage of ours, through the toolkit's own runner."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import toolkit.rollout
import toolkit.stages.ppo
import toolkit.stages.reward
import toolkit.stages.sft
import toolkit.training.loop  # the clock starts after all imports
from specs.compare.measure import Job, Measure, read_lines, serve, write_lines
from specs.compare.rows import check_names
from toolkit.pipeline.events import Silent
from toolkit.pipeline.runner import run
from toolkit.spec.load import load_spec
from toolkit.spec.schema import Optimizer, Schedule, Spec

MODELS = {"sft": "sft/model", "reward": "reward.1/model", "ppo": "ppo.1/policy"}


class Clock(Silent):
    """A display that notes when steps end."""

    def __init__(self, measure: Measure) -> None:
        self.measure = measure

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Note the end of a step."""
        self.measure.step()


def run_stage(job: Job, measure: Measure) -> dict[str, Any]:
    """Run the spec up to the job's stage; what stands before it is there already."""
    loaded = load_spec(job["spec_file"], job["overrides"])
    if job.get("large"):  # nobody writes his models in these tasks
        toolkit.stages.ppo.save_model = lambda *_: None
    run(loaded, job["stage"], display=Clock(measure))
    stages = Path(loaded.spec.out) / "stages"
    kind = job["stage"]
    if kind not in MODELS:
        return {}
    if not job.get("large"):
        shutil.copytree(stages / MODELS[kind], Path(job["out"]) / "model", dirs_exist_ok=True)
    settings = SETTINGS[kind](loaded.spec, stages)
    check_names(kind, settings)
    return settings


def export_data(job: Job, measure: Measure) -> dict[str, Any]:
    """Write what all competitors read: demonstrations, prompts and comparisons as token ids."""
    del measure
    stages, out = Path(job["stages"]), Path(job["data"])
    kept = ("prompt", "prompt_ids", "response_ids", "responses_ids", "ranks")
    sources = {
        "demonstrations": stages / "data" / "demonstrations.train.jsonl",
        "prompts": stages / "data" / "prompts.train.jsonl",
        "prompts.valid": stages / "data" / "prompts.valid.jsonl",
        "rankings": stages / "label.1" / "rankings.jsonl",
        "rankings.valid": stages / "reward.1" / "rankings.valid.jsonl",
    }
    records = {name: read_lines(path) for name, path in sources.items() if path.exists()}
    held = {r["prompt"] for r in records.get("rankings.valid", [])}
    if "rankings" in records:
        records["rankings"] = [r for r in records["rankings"] if r["prompt"] not in held]
    for name, rows in records.items():
        cut = [{key: row[key] for key in kept if key in row} for row in rows]
        write_lines(out / f"{name}.jsonl", cut)
    return {}


def ready(job: Job, measure: Measure) -> dict[str, Any]:
    """Run our data stage and write its records for all."""
    run_stage({**job, "stage": "data"}, measure)
    return export_data(job, measure)


def _optimizer(optimizer: Optimizer) -> dict[str, Any]:
    return {
        "betas": list(optimizer.betas),
        "epsilon": optimizer.eps,
        "weight decay": optimizer.weight_decay,
        "gradient clip": optimizer.clip_norm,
    }


def _schedule(schedule: Schedule) -> str:
    return f"{schedule.name} to {schedule.floor:g}"


def _run(spec: Spec) -> dict[str, Any]:
    return {
        "precision": spec.hardware.precision,
        "threads": spec.hardware.threads,
        "order of examples": "drawn by the seed",
        "padding in the softmax": False,
    }


def sft_settings(spec: Spec, stages: Path) -> dict[str, Any]:
    """Settings of sft."""
    config = spec.sft
    assert config is not None
    summary = json.loads((stages / "sft" / "done.json").read_text())["summary"]
    return {
        "examples": summary["demonstrations"],
        "batch": config.batch,
        "optimizer steps": summary["steps"],
        "learning rate": config.lr,
        "schedule": _schedule(config.schedule),
        "warmup steps": config.schedule.warmup,
        **_optimizer(config.optimizer),
        "loss on": config.loss_on,
        "dropout": config.dropout or None,
        "head": "response tokens",
        **_run(spec),
    }


def reward_settings(spec: Spec, stages: Path) -> dict[str, Any]:
    """Settings of reward."""
    config = spec.reward
    summary = json.loads((stages / "reward.1" / "done.json").read_text())["summary"]
    return {
        "prompts": summary["prompts"],
        "pairs": "all of a prompt",
        "pairs a step": f"of {config.batch} prompts",
        "optimizer steps": summary["steps"],
        "learning rate": config.lr,
        "schedule": _schedule(config.schedule),
        "warmup steps": config.schedule.warmup,
        **_optimizer(config.optimizer),
        "ties": config.ties,
        "new head": f"normal, {config.head_std or '1/sqrt(d + 1)'}",
        "scores centred": f"on {config.center_on}" if config.center_on else None,
        **_run(spec),
    }


def ppo_settings(spec: Spec, stages: Path) -> dict[str, Any]:
    """Settings of ppo."""
    config = spec.ppo
    assert config is not None
    summary = json.loads((stages / "ppo.1" / "done.json").read_text())["summary"]
    return {
        "episodes": config.episodes,
        "batch": config.batch,
        "optimizer steps": summary["optimizer_steps"],
        "learning rate": config.lr,
        "value learning rate": config.value.lr,
        "schedule": "linear to 0" if config.anneal else "constant",
        **_optimizer(config.optimizer),
        "KL coefficient": config.kl.coef,
        "gamma": config.gamma,
        "lambda": config.lam,
        "ratio clip": config.cliprange,
        "value clip": config.value.cliprange,
        "value loss weight": config.value.vf_coef,
        "whitened": config.whiten,
        "temperature": config.temperature,
        "new tokens at most": spec.text.max_response,
        "without end-of-text": f"score {config.no_eos.score:g}" if config.no_eos else None,
        "value model from": config.value.init,
        "policy and value": "two optimizers",
        "rollout": "toolkit.rollout",
        **_run(spec),
    }


SETTINGS = {"sft": sft_settings, "reward": reward_settings, "ppo": ppo_settings}
STAGES = dict.fromkeys(("data", "sft", "label", "reward", "ppo"), run_stage)

if __name__ == "__main__":
    serve({**STAGES, "export": export_data, "ready": ready})

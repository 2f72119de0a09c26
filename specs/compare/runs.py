"""The order of processes: who runs what, from which folders, with which overrides of the spec."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from specs.compare.measure import SO_FAR
from specs.compare.processes import Bench, Result, Unfinished, resolved

FIXED: dict[str, dict[str, Any]] = {
    "v4096": {
        "vocab": 4096,
        "prompt": 64,
        "model": {"n_layer": 6, "n_embd": 384, "n_head": 6, "n_positions": 128},
    },
    "v50257": {
        "vocab": 50257,
        "prompt": 32,
        "model": {"n_layer": 4, "n_embd": 256, "n_head": 4, "n_positions": 64},
    },
    "v125m": {
        "vocab": 50257,
        "prompt": 64,
        "model": {"n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 128},
    },
    "v1300m": {
        "vocab": 50257,
        "prompt": 64,
        "model": {"n_layer": 24, "n_embd": 2048, "n_head": 16, "n_positions": 128},
    },
}
"""Task for speed -> width of the softmax, tokens of a prompt, settings of the GPT-2."""

LARGE = ("v125m", "v1300m")
"""Tasks for a GPU: weights are drawn where they are used, and no trained model is written."""

TASKS = {"cpu": ("sort", "v4096", "v50257"), "cuda": LARGE}
"""Device -> what is run unless the command line says otherwise."""

QUICK_SORT = ["sft.epochs=1", "collect.prompts=200", "ppo.episodes=512"]
QUICK_FIXED = ["ppo.episodes=64"]
QUICK_LARGE = [
    "ppo.episodes=24", "ppo.batch=8", "ppo.minibatch=8", "text.max_prompt=6", "text.max_response=5",
]  # fmt: skip
QUICK_SHAPE = {
    "vocab": 300,
    "prompt": 6,
    "model": {"n_layer": 2, "n_embd": 64, "n_head": 2, "n_positions": 16},
}
"""What --quick makes of a large task: small enough for any CPU."""

ANSWERS = 4

Row = dict[str, Any]


def run_sort(
    bench: Bench,
    seed: int,
    coefficients: list[float],
    systems: list[str],
    *,
    precision: str = "fp32",
    quick: bool,
) -> list[Row]:
    """Run the three stages of `sort` with every system; PPO once for each KL coefficient."""
    spec_file, folder = "specs/sort.yaml", bench.clear(bench.out / f"sort-{seed}-{precision}")
    overrides = [
        f"seed={seed}", f"out={folder}/run", f"hardware.threads={bench.threads}",
        f"hardware.precision={precision}", "evaluate=null", *(QUICK_SORT if quick else []),
    ]  # fmt: skip
    base = str(folder / "base")
    first = {"spec_file": spec_file, "overrides": overrides, "models": {"base": base}}
    bench.run("tasks", {**first, "stage": "prepare", "out": f"{folder}/prepare"}, "base model")
    job = {
        "spec_file": spec_file,
        "overrides": [*overrides, f"models.base.path={base}", "models.base.architecture=null"],
        "data": str(folder / "data"),
        "seed": seed,
        "precision": precision,
    }
    collected = ours_first(bench, job, folder, coefficients)
    rows = []
    for system in systems:
        rows += _three_stages(bench, system, job, folder, coefficients, collected)
    return rows


def ours_first(bench: Bench, job: Row, folder: Path, coefficients: list[float]) -> Row:
    """Run ours: the others read the comparisons that its SFT model answered.

    Return stage -> result; PPO's are named by their KL coefficient.
    """
    name, results = f"sort {job['seed']} ours {job['precision']}", {}
    for stage in ("data", "sft", "label", "reward"):
        mine = {**job, "stage": stage, "out": f"{folder}/ours/{stage}"}
        results[stage] = bench.run("ours", mine, f"{name} {stage}")
    export = {**job, "stage": "export", "stages": f"{folder}/run/stages"}
    bench.run("ours", {**export, "out": f"{folder}/ours/export"}, f"{name} export")
    for coef in coefficients:
        results[f"ppo {coef:g}"] = bench.run(
            "ours",
            {
                **job,
                "overrides": [*job["overrides"], f"ppo.kl.coef={coef}"],
                "stage": "ppo",
                "out": f"{folder}/ours/ppo-{coef:g}",
            },
            f"{name} ppo, kl {coef:g}",
        )
    return results


def _three_stages(
    bench: Bench, system: str, job: Row, folder: Path, coefficients: list[float], ours: Row
) -> list[Row]:
    home = f"{folder}/{system}"
    models = {
        "base": f"{folder}/base", "sft": f"{home}/sft/model", "reward": f"{home}/reward/model"
    }  # fmt: skip
    mine, name = {**job, "models": models}, f"sort {job['seed']} {system} {job['precision']}"
    results = dict(ours) if system == "ours" else {}
    if system != "ours":
        for stage, coef in [("sft", None), ("reward", None), *(("ppo", c) for c in coefficients)]:
            key = stage if coef is None else f"ppo {coef:g}"
            change = [] if coef is None else [f"ppo.kl.coef={coef}"]
            overrides = [*job["overrides"], *change]
            spec = resolved(job["spec_file"], overrides)
            out = f"{home}/{key.replace(' ', '-')}"
            ask = {**mine, "stage": stage, "spec": spec, "out": out}
            results[key] = bench.run(system, ask, f"{name} {key}")
    policies = {"sft": models["sft"]}
    policies |= {f"ppo {c:g}": f"{home}/ppo-{c:g}/model" for c in coefficients}
    ask = {**mine, "stage": "evaluate", "policies": policies, "answers": ANSWERS}
    ask = {**ask, "out": f"{home}/evaluate"}
    figures = bench.run("evaluate", ask, f"{name} evaluate")["settings"]
    for stage in ("sft", "reward", f"ppo {coefficients[0]:g}"):
        bench.settings.setdefault((system, stage.split()[0]), results[stage]["settings"])
    batch = resolved(job["spec_file"], job["overrides"])["ppo"]["batch"]
    about = {
        "task": "sort", "system": system, "precision": job["precision"], "seed": job["seed"]
    }  # fmt: skip
    return [{**about, **_sort_figures(c, batch, results, figures)} for c in coefficients]


def _sort_figures(coef: float, batch: int, results: Row, figures: Row) -> Row:
    ppo, sft, after = results[f"ppo {coef:g}"], figures["sft"], figures[f"ppo {coef:g}"]
    parts = {"sft": results["sft"], "reward": results["reward"], "ppo": ppo}
    seconds = {f"{name}_s": part["seconds"] for name, part in parts.items()}
    return {
        "kl_coef": coef,
        **seconds,
        "total_s": sum(seconds.values()),
        "collect_s": results["label"]["seconds"] if "label" in results else None,
        **_pace(ppo, batch),
        "peak_gb": max(part["peak"] for part in parts.values()) / 1e9,
        **{f"{name}_peak_gb": part["peak"] / 1e9 for name, part in parts.items()},
        "reward_accuracy": figures["reward_accuracy"],
        "oracle_sft": sft["oracle"], "oracle_ppo": after["oracle"],
        "exact_sft": sft["exact"], "exact_ppo": after["exact"],
        "greedy_sft": sft["exact_greedy"], "greedy_ppo": after["exact_greedy"],
        "kl_nats": after["kl"], "ended": after["ended"],
    }  # fmt: skip


def _pace(ppo: Result, batch: int) -> Row:
    pace = ppo["pace"]
    return {
        "episodes_per_s": None if pace is None else pace * batch,
        "imports_gb": ppo["imports"] / 1e9,
    }


def run_fixed(
    bench: Bench,
    task: str,
    repeat: int,
    systems: list[str],
    *,
    quick: bool,
    precisions: list[str] | None = None,
) -> list[Row]:
    """Run PPO alone on fixed lengths with every system.

    Args:
        bench: starts the processes.
        task: of FIXED.
        repeat: the seed, and who comes first.
        systems: who runs.
        quick: few steps, and a small model for a large task.
        precisions: what every system runs in; None: fp32 for all, and ours in bf16 too.
    """
    spec_file, folder = f"specs/compare/{task}.yaml", bench.clear(bench.out / f"{task}-{repeat}")
    base, reward, prompts = f"{folder}/base", f"{folder}/reward", f"{folder}/prompts.jsonl"
    large, shape = task in LARGE, FIXED[task]
    short = (QUICK_LARGE if large else QUICK_FIXED) if quick else []
    overrides = [
        f"seed={repeat}", f"hardware.threads={bench.threads}", f"hardware.device={bench.device}",
        *short,
    ]  # fmt: skip
    models = {"base": base, "sft": base, "reward": reward}
    job = {
        "spec_file": spec_file, "overrides": overrides, "models": models, "seed": repeat,
        "large": large, "precision": "fp32",
    }  # fmt: skip
    made = {"stage": "prepare_fixed", "out": f"{folder}/prepare", "prompts": prompts}
    sizes = QUICK_SHAPE if quick and large else shape
    bench.run("tasks", {**job, **made, **sizes}, f"{task} base model")
    job["overrides"] = [
        *overrides, f"models.base.path={base}", "models.base.architecture=null",
        f"models.reward_trained.path={reward}", f"text.tokenizer={base}",
        f"data.prompts.path={prompts}", f"out={folder}/run",
    ]  # fmt: skip
    job |= {"data": f"{folder}/data", "stages": f"{folder}/run/stages"}
    bench.run("ours", {**job, "stage": "ready", "out": f"{folder}/ours/data"}, f"{task} data")
    return [
        _fixed_row(bench, task, repeat, system, precision, job, folder)
        for system, precision in turns(systems, repeat, precisions)
    ]


def everyone(systems: list[str], precisions: list[str] | None) -> list[tuple[str, list[str]]]:
    """Return each precision and who runs in it; None: fp32 for all, and bf16 for ours."""
    if precisions is not None:
        return [(precision, systems) for precision in precisions]
    lowered = [("bf16", ["ours"])] if "ours" in systems else []
    return [("fp32", systems), *lowered]


def turns(
    systems: list[str], repeat: int, precisions: list[str] | None = None
) -> list[tuple[str, str]]:
    """Return (system, precision); each repeat starts with another, so that drift favours nobody."""
    all_of = [(one, precision) for precision, who in everyone(systems, precisions) for one in who]
    start = (repeat - 1) % len(all_of)
    return all_of[start:] + all_of[:start]


def _fixed_row(
    bench: Bench, task: str, repeat: int, system: str, precision: str, job: Row, folder: Path
) -> Row:
    """Run one system; on a GPU one that fails or takes too long is a row that says so."""
    overrides = [*job["overrides"], f"hardware.precision={precision}"]
    spec = resolved(job["spec_file"], overrides)
    name = f"{task} {repeat} {system} {precision}"
    mine = {**job, "overrides": overrides, "precision": precision, "spec": spec}
    row = {
        "task": task, "system": system, "precision": precision, "seed": repeat,
        "kl_coef": spec["ppo"]["kl"]["coef"],
        "gpu": bench.gpu,
    }  # fmt: skip
    out = f"{folder}/{system}/ppo-{precision}"
    try:
        result = bench.run(system, {**mine, "stage": "ppo", "out": out}, name)
    except Unfinished as why:
        if bench.device == "cpu":
            raise
        print(why, flush=True)
        row["note"] = why.note
        if not (kept := Path(out, SO_FAR)).exists():
            return row
        result = json.loads(kept.read_text(encoding="utf-8"))
        row["note"] += f"; figures of {result['steps']} steps"
    else:
        bench.settings.setdefault((system, "ppo"), result["settings"])
    there = result.get("gpu_peak")
    return {
        **row,
        "ppo_s": None if "note" in row else result["seconds"],
        "peak_gb": result["peak"] / 1e9,
        "ppo_peak_gb": result["peak"] / 1e9,
        "gpu_peak_gb": None if there is None else there / 1e9,
        **_pace(result, spec["ppo"]["batch"]),
    }

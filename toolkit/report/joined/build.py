"""The joined report as one JSON-able record: models, win rates, Elo, sweeps, curves."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from toolkit.pipeline.identity import flatten
from toolkit.report.elo import rate, results, sum_groups
from toolkit.report.joined.models import Joined
from toolkit.report.load import Record, Run
from toolkit.report.numbers import is_number
from toolkit.report.summary import clean, frontier

SWEPT = ("ppo.ptx.coef", "ppo.kl.coef")
APART = ("name", "out", "share")
FIGURES = ("oracle", "exact", "reward", "kl", "length", "perplexity", "skill")
FRONTIERS = 3


def build(joined: Joined) -> Record:
    """Return the whole record.

    Raises:
        ToolkitError: some models answered no common prompts, directly or through others.
    """
    anchor = "sft" if "sft" in joined.order else next(iter(joined.order), "")
    wins = win_rates(joined)
    models = [_model(joined, name, anchor, wins) for name in joined.order]
    if joined.order:
        asked = list(joined.groups.values())
        ratings = rate(list(joined.prompts.values()), anchor, groups=asked)
        for model in models:
            model["elo"] = asdict(ratings[model["name"]])
    return {
        "schema": 1,
        "judge": joined.judge,
        "anchor": anchor,
        "prompts": len(joined.prompts),
        "groups": len(set(joined.groups.values())),
        "seeds": sorted({run.spec.seed for run in joined.runs}),
        "models": clean(models),
        "wins": clean(wins),
        "sweeps": clean(sweeps(joined)),
        "reward": clean(reward_models(joined.runs)),
        "frontiers": clean(frontiers(joined)),
        "runs": [_run(run) for run in joined.runs],
    }


def win_rates(joined: Joined) -> Record:
    """Return name -> rival -> win rate, 95 % interval over prompts, count, and rate by seed.

    Ties count one half; the prompts of all seeds that both answered are taken together. Prompts of
    one group count as one observation in the interval, of the variance of a sum over groups.
    """
    order = joined.order
    if not order:
        return {}
    seeds = np.array([seed for seed, _ in joined.prompts])
    rows = list(joined.prompts.values())
    groups = list(joined.groups.values())
    points = results(rows, order)
    met = np.array([[[a in r and b in r for b in order] for a in order] for r in rows])
    found: Record = {}
    for i, name in enumerate(order):
        for j, rival in enumerate(order):
            if i != j and met[:, i, j].any():
                both = met[:, i, j]
                own = [group for group, there in zip(groups, both, strict=True) if there]
                share = _share(points[both, i, j], seeds[both], own)
                found.setdefault(name, {})[rival] = share
    return found


def _share(points: np.ndarray, seeds: np.ndarray, groups: Sequence[Hashable]) -> Record:
    mean, count = float(points.mean()), len(points)
    sums = sum_groups(points - mean, groups)
    many = len(sums)
    error = (float((sums**2).sum()) * many / (many - 1)) ** 0.5 / count if many > 1 else 0.25
    half = 1.96 * error
    by_seed = {str(s): float(points[seeds == s].mean()) for s in sorted(set(seeds.tolist()))}
    return {
        "win_rate": mean,
        "low": max(0.0, mean - half),
        "high": min(1.0, mean + half),
        "prompts": count,
        "groups": many,
        "by_seed": by_seed,
    }


def _model(joined: Joined, name: str, anchor: str, wins: Record) -> Record:
    """Return one model's figures: the mean over seeds, and each seed's."""
    by_seed = joined.figures[name]
    found: Record = {"name": name, "seeds": sorted(by_seed), "against": anchor}
    kinds = dict.fromkeys(key for held in by_seed.values() for key in held)
    for key in kinds:
        found[key] = spread({seed: held.get(key) for seed, held in by_seed.items()})
    losses = {seed: _loss(held) for seed, held in by_seed.items()}
    found["pretraining_loss"] = spread(losses)
    found["wins"] = (wins.get(name) or {}).get(anchor)
    return found


def _loss(figures: Mapping[str, Any]) -> float | None:
    perplexity = figures.get("perplexity")
    return math.log(perplexity) if is_number(perplexity) and perplexity > 0 else None


def spread(by_seed: Mapping[int, Any]) -> Record | None:
    """Return mean, smallest, largest and each seed's value; None where no seed has one."""
    values = {str(seed): float(v) for seed, v in by_seed.items() if is_number(v)}
    if not values:
        return None
    numbers = list(values.values())
    mean = sum(numbers) / len(numbers)
    return {"mean": mean, "low": min(numbers), "high": max(numbers), "by_seed": values}


def sweeps(joined: Joined) -> list[Record]:
    """Return each group of at least three runs that differ in one swept coefficient only."""
    found = []
    for path in SWEPT:
        groups: dict[str, list[tuple[float, Run]]] = {}
        for run in joined.runs:
            leaves = flatten(run.tree, "")
            value = leaves.pop("." + path, None)
            if is_number(value):
                rest = {k: v for k, v in leaves.items() if k.split(".")[1] not in APART}
                groups.setdefault(repr(sorted(rest.items(), key=str)), []).append((value, run))
        for group in groups.values():
            points = [_point(joined, value, run) for value, run in group]
            if len({p["value"] for p in points}) >= 3 and all(p["model"] for p in points):
                points.sort(key=lambda p: float(p["value"]))
                found.append({"path": path, "seed": group[0][1].spec.seed, "points": points})
    return found


def _point(joined: Joined, value: float, run: Run) -> Record:
    seed, label = run.spec.seed, run.spec.name
    held = joined.figures.get(label, {}).get(seed)
    if held is None:
        return {"value": value, "model": None}
    return (
        {"value": value, "model": label}
        | {k: held.get(k) for k in FIGURES}
        | {
            "pretraining_loss": _loss(held),
            "win_rate": _against_sft(joined, label, seed),
        }
    )


def _against_sft(joined: Joined, label: str, seed: int) -> float | None:
    both = [r for (s, _), r in joined.prompts.items() if s == seed and label in r and "sft" in r]
    points = [1.0 if r[label] > r["sft"] else 0.5 if r[label] == r["sft"] else 0.0 for r in both]
    return sum(points) / len(points) if points else None


def reward_models(runs: Sequence[Run]) -> list[Record]:
    """Return each trained reward model once: held-out accuracy, and after each epoch."""
    found: dict[str, Record] = {}
    for run in runs:
        stage = run.last("reward")
        if stage.state != "done":
            continue
        config, summary = run.spec.reward, stage.done.get("summary") or {}
        accuracy = run.read("reward", "accuracy.json")
        found.setdefault(
            str(stage.done.get("key")),
            {
                "run": run.spec.name,
                "seed": run.spec.seed,
                "element": config.element,
                "epochs": config.epochs,
                "valid": accuracy.get("valid"),
                "train": accuracy.get("train"),
                "by_epoch": summary.get("by_epoch") or [],
            },
        )
    return list(found.values())


def frontiers(joined: Joined) -> list[Record]:
    """Return KL, reward model's score and oracle's of the runs that the most seeds have."""
    trained = [run for run in joined.runs if run.last("ppo").state == "done"]
    counts: dict[str, int] = {}
    for run in trained:
        counts[run.spec.name] = counts.get(run.spec.name, 0) + 1
    names = sorted(counts, key=lambda name: -counts[name])[:FRONTIERS]
    chosen = (run for name in names for run in trained if run.spec.name == name)
    return [
        {"run": r.spec.name, "seed": r.spec.seed, "points": frontier(r.last("ppo"))} for r in chosen
    ]


def _run(run: Run) -> Record:
    spent = {s.name: s.done.get("seconds") for s in run.stages if s.state == "done"}
    keys = {s.name: s.done.get("key") for s in run.stages if s.state == "done"}
    lacking = [s.name for s in run.stages if s.state != "done"]
    return {
        "folder": str(run.folder),
        "name": run.spec.name,
        "seed": run.spec.seed,
        "seconds": spent,
        "keys": keys,
        "missing": lacking,
    }


def seconds_spent(runs: Iterable[Record]) -> float:
    """Return the working time of all runs, a stage that several share counted once."""
    spent = {run["keys"][n]: s for run in runs for n, s in run["seconds"].items() if is_number(s)}
    return float(sum(spent.values()))

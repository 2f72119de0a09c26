"""report.json: the run's figures as one JSON-able record, each as its file has it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from toolkit.report import findings
from toolkit.report.load import Record, Run, Stage, load_run
from toolkit.report.numbers import is_number
from toolkit.report.rounds import round_records

SCHEMA = 1


def build_report(run: Run) -> Record:
    """Return the whole report: headline, warnings, results, stages, metrics, data, settings."""
    evaluation = run.read("evaluate", "evaluation.json")
    accuracy = run.read("reward", "accuracy.json")
    return {
        "schema": SCHEMA,
        "name": run.spec.name,
        "seed": run.spec.seed,
        "finished": all(stage.state == "done" for stage in run.stages),
        "headline": findings.headline(run, evaluation),
        "warnings": [w.as_record() for w in findings.warnings(run, evaluation, accuracy)],
        "missing": findings.missing(run),
        "evaluation": clean(evaluation),
        "accuracy": clean(accuracy),
        "labels": clean(run.read("label", "labels.json")),
        "folds": clean(run.read("folds", "folds.json")),
        "samples": clean(run.samples()),
        "stages": [_stage_record(stage) for stage in run.stages],
        "metrics": {s.name: metric_ranges(s.metrics) for s in run.stages if _counts(s)},
        "rounds": clean(round_records(run)),
        "selection": clean(run.read("select", "select.json")),
        "frontier": frontier(run.last("ppo")),
        "data": clean(run.read("data", "counts.json")),
        "deviations": clean(run.deviations),
        "lock": clean(run.lock),
        "spec": clean(run.tree),
    }


def summarize(run_dir: str | Path) -> Record:
    """Return the report of the run in `run_dir`; raises as `load_run`."""
    return build_report(load_run(Path(run_dir)))


def _counts(stage: Stage) -> bool:
    return stage.state in ("done", "unfinished") and bool(stage.metrics)


def _stage_record(stage: Stage) -> Record:
    done = stage.done
    steps = stage.metrics[-1].get("step") if stage.metrics else None
    return {
        "name": stage.name,
        "state": stage.state,
        "steps": steps,
        "seconds": done.get("seconds"),
        "peak_memory": done.get("peak_memory"),
        "device_memory": done.get("device_memory"),
        "key": done.get("key"),
        "gate": done.get("gate"),
        "summary": clean(done.get("summary") or {}),
    }


def metric_ranges(metrics: Iterable[Record]) -> Record:
    """Return {metric: {first, last, min, max, count}} over the finite values of each metric."""
    values: dict[str, list[float]] = {}
    for line in metrics:
        for name, value in line.items():
            if name != "step" and is_number(value):
                values.setdefault(name, []).append(value)
    return {
        name: {"first": v[0], "last": v[-1], "min": min(v), "max": max(v), "count": len(v)}
        for name, v in sorted(values.items())
    }


def frontier(stage: Stage) -> list[Record]:
    """Return step, KL in nats per answer, score and the oracle's score of each PPO iteration."""
    points = []
    for index, line in enumerate(stage.metrics):
        kl, score = line.get("objective/kl"), line.get("objective/score")
        if is_number(kl) and is_number(score):
            point = {"step": line.get("step", index), "kl": kl, "score": score}
            oracle = line.get("objective/oracle")
            points.append(point | ({"oracle": oracle} if is_number(oracle) else {}))
    return points


def clean(value: Any) -> Any:
    """Return `value` with NaN and infinities as None, since JSON has neither."""
    if isinstance(value, dict):
        return {str(k): clean(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

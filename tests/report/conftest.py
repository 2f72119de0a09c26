"""A small run folder with invented numbers, as the pipeline would leave it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from toolkit.pipeline.graph import build_graph
from toolkit.pipeline.identity import spec_slice
from toolkit.pipeline.store import PROGRESS
from toolkit.spec.deviations import compare
from toolkit.spec.load import load_spec
from toolkit.spec.resolved import resolved_yaml

Record = dict[str, Any]

SPEC = """
name: fixture
extends: tiny
seed: 7
models: {base: {architecture: gpt2, config: {n_layer: 1, n_embd: 8, n_head: 1, n_positions: 256}}}
data: {task: {name: sort}}
pretrain: {steps: 30}
reward: {gate: {accuracy: 0.6}}
ppo:
  kl: {coef: 0.07}  # <i>short</i> answers
  init: {length: 16}
  ptx: {coef: 2.0, ratio: 1, length: 16}
"""

EVALUATION: Record = {
    "prompts": 512,
    "weights": "ema",
    "judges": {
        "oracle": {
            "win_rate": 0.781,
            "low": 0.742,
            "high": 0.82,
            "wins": 350,
            "ties": 100,
            "losses": 62,
        },
        "reward": {
            "win_rate": 0.85,
            "low": 0.82,
            "high": 0.88,
            "wins": 420,
            "ties": 30,
            "losses": 62,
        },
    },
    "models": {
        "sft": {
            "oracle": 0.606,
            "exact": 0.398,
            "reward": 0.11,
            "kl": 0.0,
            "length": 6.1,
            "eos_rate": 0.97,
            "perplexity": 3.21,
        },
        "ppo_ema": {
            "oracle": 0.913,
            "exact": 0.741,
            "reward": 2.35,
            "kl": 3.1,
            "length": 6.0,
            "eos_rate": 0.99,
            "perplexity": 3.25,
        },
        "ppo_last": {
            "oracle": 0.92,
            "exact": 0.75,
            "reward": 2.41,
            "kl": 3.4,
            "length": 6.0,
            "eos_rate": 0.99,
            "perplexity": 3.27,
        },
    },
    "reward_accuracy": 0.947,
    "warnings": [],
}

ACCURACY: Record = {
    "valid": {"accuracy": 0.947, "pairs": 731},
    "train": {"accuracy": 0.958, "pairs": 6500},
    "by_k": {"4": {"accuracy": 0.947, "pairs": 731}},
    "score_offset": 1.25,
    "histogram": {"edges": [-2.0, -1.0, 0.0, 1.0, 2.0, 3.0], "counts": [31, 120, 250, 160, 40]},
}

SAMPLES: list[Record] = [
    {
        "prompt": prompt,
        "sft": sft,
        "ppo": ppo,
        "oracle_sft": a,
        "oracle_ppo": b,
        "reward_sft": 2 * a - 1,
        "reward_ppo": 2 * b - 1,
    }
    for prompt, sft, ppo, a, b in [
        ("hbcaf>", "hbcaf", "abcfh", 0.2, 1.0),
        ("ggeda>", "adegg", "adegg", 1.0, 1.0),
        ("cabde>", "cabde", "abced", 0.4, 0.6),
        ("<b>&\"'>", "", "</script><img src=x>", 0.0, 0.0),
    ]
]

COUNTS: Record = {
    "demonstrations": {
        "read": 4000,
        "kept": 3990,
        "train": 3600,
        "valid": 390,
        "prompt over 6 tokens": 8,
        "duplicate": 2,
    },
    "prompts": {"read": 900, "kept": 900, "train": 800, "valid": 100, "duplicate": 0},
    "pretrain": {"read": 20000, "tokens": 126203, "train": 113583, "valid": 12620},
}


def _metrics(kind: str) -> list[Record]:
    """Invented curves: 60 PPO iterations, 30 steps elsewhere."""
    if kind == "ppo":
        return [_ppo_line(i) for i in range(60)]
    if kind == "reward":
        return [
            {"step": i + 1, "loss": 0.693 * 0.95**i, "accuracy": 1 - 0.5 * 0.9**i, "lr": 5e-4}
            for i in range(30)
        ]
    lines: list[Record] = [
        {"step": i + 1, "loss": 2.1 * 0.93**i + 0.4, "grad_norm": 1.0} for i in range(30)
    ]
    if kind == "init":
        for line in lines:
            line |= {"demonstrations/loss": line["loss"] - 0.1, "pretrain/loss": line["loss"] + 0.9}
    lines[-1]["valid_loss"] = 0.71
    return lines


def _ppo_line(i: int) -> Record:
    wave = ((i * 37) % 11 - 5) / 50
    return {
        "step": i + 1,
        "objective/kl": 0.06 * i + wave,
        "objective/kl_coef": 0.07,
        "objective/entropy": 3.0 - 0.03 * i + wave,
        "objective/score": 0.1 + 0.04 * i + wave,
        "objective/rewards": 0.1 + 0.035 * i + wave,
        "objective/oracle": min(0.92, 0.6 + 0.006 * i) + wave / 3,
        "ppo/policy/policy_loss": -0.02 + wave / 10,
        "ppo/policy/approxkl": 0.004 + abs(wave) / 100,
        "ppo/policy/clipfrac": 0.05 + abs(wave) / 10,
        "ppo/policy/ratio_mean": 1.0 + wave / 100,
        "ppo/policy/ratio_max": 1.5 + abs(wave),
        "ppo/val/loss": 0.5 * 0.95**i,
        "ppo/val/clipfrac": 0.1,
        "ppo/val/var_explained": float("nan") if i == 0 else 0.9 - 0.9 * 0.9**i,
        "ppo/grad_norm": 0.8 + abs(wave),
        "ptx/grad_norm": 3.0 + abs(wave),
        "ppo/val/grad_norm": 0.3 + abs(wave),
        "ptx/loss": 1.16 + wave / 50,
        "response/length": 6.0 + wave,
        "response/eos_rate": 0.97 + i / 3000,
        "lr": 1e-4,
    }


def write_lines(path: Path, records: Iterable[Record]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


class RunFolder:
    """A run on disk that a test may change before it asks for the report."""

    def __init__(self, path: Path, spec: str = SPEC) -> None:
        self.path = path
        path.mkdir(parents=True)
        (path / "spec.yaml").write_text(spec)
        self.loaded = load_spec(path / "spec.yaml", [], files=False)
        (path / "spec.resolved.yaml").write_text(resolved_yaml(self.loaded))
        found = compare(self.loaded, "instructgpt/1.3b").as_record()
        (path / "deviations.json").write_text(json.dumps(found))
        (path / "lock.json").write_text(
            json.dumps({"seed": 7, "packages": {"torch": "2.13.0"}, "machine": {"cores": 2}})
        )
        self.nodes = {node.kind: node for node in build_graph(self.loaded.spec)}

    def stage(self, kind: str) -> Path:
        """Return the folder of the finished stage of a kind."""
        return self.path / "stages" / self.nodes[kind].name

    def finish(self, kind: str, **changes: Any) -> Path:
        """Write a finished stage with its done.json; `changes` replace fields of it."""
        node, folder = self.nodes[kind], self.stage(kind)
        folder.mkdir(parents=True)
        done = {
            "key": f"key-{kind}",
            "parts": {
                "spec": json.loads(json.dumps(spec_slice(self.loaded.spec, node.paths))),
                "inputs": {read: f"key-{name.split('.')[0]}" for read, name in node.inputs.items()},
                "seed": 7,
            },
            "seconds": 12.5,
            "peak_memory": 700_000_000,
            "summary": {"steps": 30},
            "warnings": [],
            "gate": None,
        }
        (folder / "done.json").write_text(json.dumps(done | changes))
        if kind in ("pretrain", "sft", "init", "reward", "ppo"):
            write_lines(folder / "metrics.jsonl", _metrics(kind))
        return folder

    def finish_all(self, evaluation: Record = EVALUATION, accuracy: Record = ACCURACY) -> RunFolder:
        """Write every stage."""
        for kind in self.nodes:
            self.finish(kind)
        (self.stage("data") / "counts.json").write_text(json.dumps(COUNTS))
        (self.stage("reward") / "accuracy.json").write_text(json.dumps(accuracy))
        (self.stage("evaluate") / "evaluation.json").write_text(json.dumps(evaluation))
        write_lines(self.stage("evaluate") / "samples.jsonl", SAMPLES)
        return self

    def change_done(self, kind: str, **changes: Any) -> None:
        """Replace fields of a finished stage's done.json."""
        path = self.stage(kind) / "done.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    def start(self, kind: str, steps: int, total: int, failed: str | None = None) -> Path:
        """Write an unfinished stage whose last line is being written."""
        name = self.nodes[kind].name
        folder = self.path / "stages" / ".partial" / f"{name}-0123456789ab"
        folder.mkdir(parents=True)
        write_lines(folder / "metrics.jsonl", _metrics(kind)[:steps])
        with (folder / "metrics.jsonl").open("a") as file:
            file.write('{"step": 999, "lo')
        progress = {"step": steps, "total": total, "seconds": 3.0, "failed": failed}
        (folder / PROGRESS).write_text(json.dumps(progress))
        return folder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """Return an empty run folder: a spec, no stage."""
    return RunFolder(tmp_path / "fixture")


@pytest.fixture
def unpretrained(tmp_path: Path) -> RunFolder:
    """Return an empty run folder of a spec whose model was never pretrained."""
    spec = SPEC.replace("pretrain: {steps: 30}\n", "")
    return RunFolder(tmp_path / "unpretrained", spec)


@pytest.fixture
def finished(folder: RunFolder) -> RunFolder:
    """Return a finished run."""
    return folder.finish_all()


@pytest.fixture(scope="session")
def shown(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Return a finished run for tests that change nothing."""
    return RunFolder(tmp_path_factory.mktemp("shown") / "fixture").finish_all()


@pytest.fixture
def evaluation() -> Record:
    """Return a copy of the evaluation, to be changed."""
    return copy.deepcopy(EVALUATION)


@pytest.fixture
def with_evaluation(folder: RunFolder) -> Callable[[Record], Path]:
    """Return a function that finishes a run with the given evaluation."""
    return lambda record: folder.finish_all(record).path

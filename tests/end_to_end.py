"""Helpers of the tests that run whole pipelines on the tiny spec."""

import json
from pathlib import Path

from toolkit.pipeline.runner import run
from toolkit.spec.load import load_spec

SPEC = Path(__file__).parent / "golden" / "tiny.yaml"
STAGES = (
    "data", "pretrain", "sft", "collect.1", "label.1", "reward.1", "ppo.1", "evaluate", "export",
)  # fmt: skip


def run_tiny(out: Path, *overrides: str, until: str | None = None):
    """Run the tiny spec in this process; return the outcome."""
    return run(load_spec(SPEC, [f"out={out}", *overrides]), until)


def done(out: Path, stage: str) -> dict:
    """A stage's done.json."""
    return json.loads((out / "stages" / stage / "done.json").read_text())


def weights(out: Path) -> dict[str, bytes]:
    """Every weight file, and PPO's metrics, as bytes."""
    stages = out / "stages"
    kept = ("*/*/model.safetensors", "*/epochs/*/model.safetensors", "*/metrics.jsonl")
    files = [path for pattern in kept for path in stages.glob(pattern)]
    return {str(path.relative_to(stages)): path.read_bytes() for path in sorted(files)}

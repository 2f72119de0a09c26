"""A tiny task as the competitors see it: a base model's folder, JSON Lines, a job."""

from dataclasses import asdict

import pytest

from specs.compare.measure import write_lines
from specs.compare.tasks import save_base
from tests.tiny import tiny_model, tiny_text
from toolkit.spec.load import load_spec

CHANGES = (
    "sft.epochs=1", "sft.batch=4", "reward.epochs=1", "reward.batch=2", "ppo.batch=4",
    "ppo.minibatch=4",
)  # fmt: skip
EXAMPLES = (
    ([0, 1, 8], [0, 1, 9]), ([2, 1, 8], [1, 2, 9]), ([1, 0, 8], [0, 1, 9]), ([3, 2, 8], [2, 3, 9]),
    ([3, 0, 4, 8], [0, 3, 4, 9]), ([3, 1, 8], [3, 1, 9]), ([5, 4, 8], [4, 5, 9]), ([6, 8], [6, 9]),
)  # fmt: skip


@pytest.fixture
def job(tmp_path, root):
    """A job on eight demonstrations and prompts and four rankings, without stage and out."""
    text = tiny_text()
    save_base(tiny_model(text), text, tmp_path / "base")
    demos = [{"prompt_ids": list(p), "response_ids": list(r)} for p, r in EXAMPLES]
    rankings = [
        {"prompt_ids": d["prompt_ids"], "responses_ids": [[9], d["response_ids"], [7, 9]],
         "ranks": [2, 1, 2]}
        for d in demos[:4]
    ]  # fmt: skip
    prompts = [{"prompt": "ba>", "prompt_ids": d["prompt_ids"]} for d in demos]
    for name, rows in {
        "demonstrations": demos, "rankings": rankings, "rankings.valid": rankings,
        "prompts": prompts, "prompts.valid": prompts,
    }.items():  # fmt: skip
        write_lines(tmp_path / "data" / f"{name}.jsonl", rows)
    overrides = [*CHANGES, "ppo.episodes=8", "data.task.prompts=50"]
    spec_file = str(root / "specs" / "sort.yaml")
    return {
        "spec_file": spec_file,
        "overrides": overrides,
        "spec": asdict(load_spec(spec_file, overrides).spec),
        "models": {"base": str(tmp_path / "base"), "sft": str(tmp_path / "sft" / "model")},
        "data": str(tmp_path / "data"),
        "seed": 1,
        "precision": "fp32",
        "answers": 2,
    }

"""The plan says how much room the models take, as a run then does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tiny import tiny_model, tiny_text
from toolkit.models.save import save_model
from toolkit.pipeline import disk
from toolkit.pipeline.disk import Disk, disk_notes, room
from toolkit.pipeline.events import Silent
from toolkit.pipeline.runner import prepare, run
from toolkit.spec.load import load_spec
from toolkit.spec.model_folder import parameters

SPEC = """\
extends: tiny
out: {out}
models: {{base: {{path: {model}}}}}
text: {{tokenizer: {model}, max_prompt: 8, max_response: 8}}
data: {{task: {{name: sort, demonstrations: 64, prompts: 64, valid_prompts: 16, pretrain: 50}}}}
sft: {{epochs: 3, batch: 16, select: reward, select_prompts: 8}}
collect: {{prompts: 24, k: 3}}
reward: {{batch: 8}}
ppo: {{episodes: 32, batch: 32, minibatch: 32, ema: 0.9, ptx: null}}
evaluate: {{prompts: 8, perplexity_tokens: 0}}
checkpoint: {{every: 1 steps, keep: 2}}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    text = tiny_text()
    save_model(tiny_model(text), tmp_path / "model", text)
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC.format(out=tmp_path / "run", model=tmp_path / "model"), encoding="utf-8")
    return path


def need(path: Path, *overrides: str) -> Disk:
    loaded = load_spec(path, overrides)
    found = room(loaded.spec, prepare(loaded)[1])
    assert found is not None
    return found


def test_the_models_of_a_run_take_the_room_the_plan_said(spec, tmp_path):
    wanted = need(spec)
    run(load_spec(spec))
    left = sum(p.stat().st_size for p in (tmp_path / "run/stages").glob("*/**/*.safetensors"))
    assert left == pytest.approx(wanted.models, rel=0.1)  # heads of the files, and of the models
    epochs = (tmp_path / "run/stages/sft/epochs").glob("*/*.safetensors")
    assert sum(p.stat().st_size for p in epochs) == pytest.approx(wanted.kept_epochs, rel=0.1)
    again = need(spec)
    assert (again.models, again.kept_epochs, again.checkpoints) == (0, 0, 0)


def test_a_checkpoint_takes_the_room_the_plan_said(spec, tmp_path):
    seen = []

    class Looks(Silent):
        def step(self, step, total, metrics):
            files = (tmp_path / "run/stages/.partial").glob("sft-*/checkpoint/*.pt")
            seen.extend(path.stat().st_size for path in files)

    wanted = need(spec)
    run(load_spec(spec), "sft", display=Looks())
    size = 4 * parameters(tmp_path / "model")
    assert max(seen) == pytest.approx(3 * size, rel=0.2)
    assert wanted.checkpoints == 3 * (4 + 3) * size  # PPO's: policy and value trained, an average


def test_without_selection_one_epoch_is_kept(spec):
    all_epochs, last = need(spec), need(spec, "sft.select=last")
    assert last.kept_epochs == 0
    assert all_epochs.models - last.models == all_epochs.kept_epochs * 3 // 2  # and the chosen one


def test_too_little_room_is_said_with_what_helps(spec, monkeypatch, capsys):
    from toolkit.__main__ import main

    assert main(["plan", str(spec)]) == 0
    note = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("disk: about"))
    assert "of it SFT's epochs), checkpoints take up to" in note
    assert note.endswith(" are free")
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: usage)
    assert main(["plan", str(spec), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["disk"]["free"] == 1000
    assert "1.00 kB are free, which may not suffice: make room, lower" in document["notes"][-1]


def test_models_from_scratch_and_runs_that_leave_none_have_no_note(tmp_path):
    from tests.pipeline.fakes import load

    loaded = load(tmp_path)
    assert room(loaded.spec, prepare(loaded)[1]) is None
    assert disk_notes(Disk(models=0, kept_epochs=0, checkpoints=0, free=1)) == []

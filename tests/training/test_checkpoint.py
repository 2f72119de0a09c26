"""Checkpoints appear whole, the newest few stay, and metrics rewind to them."""

import pytest
import torch

from toolkit.spec.errors import StageFailed
from toolkit.training.checkpoint import Checkpoints, parse_every, save_whole
from toolkit.training.metrics import Metrics


def test_the_newest_checkpoint_is_loaded_and_old_ones_go(tmp_path):
    saves = Checkpoints(tmp_path / "c", "1 steps", keep=2)
    for done in (1, 2, 3):
        saves.save(done, {"x": torch.full((2,), float(done)), "list": [done]})
    done, state = saves.newest()
    assert done == 3
    assert state["x"].tolist() == [3.0, 3.0]
    assert len(list((tmp_path / "c").iterdir())) == 2


def test_a_half_written_checkpoint_is_not_seen(tmp_path):
    saves = Checkpoints(tmp_path, "1 steps", keep=2)
    saves.save(1, {"x": 1})
    (tmp_path / "step-000000002.tmp").write_bytes(b"half")
    assert saves.newest()[0] == 1


@pytest.mark.parametrize(("steps", "way"), [((1,), "starts the stage"), ((1, 2), "goes on from")])
@pytest.mark.parametrize("left", [0, 100, 700])
def test_a_damaged_checkpoint_is_named_with_its_fix(tmp_path, steps, way, left):
    saves = Checkpoints(tmp_path, "1 steps", keep=2)
    for done in steps:
        saves.save(done, {"x": torch.zeros(100)})
    newest = tmp_path / f"step-{steps[-1]:09d}.pt"
    newest.write_bytes(newest.read_bytes()[:left])
    with pytest.raises(StageFailed, match=rf"{newest} cannot be read; delete it, .* {way}"):
        saves.newest()


def test_too_little_memory_is_not_called_damage(tmp_path, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")

    saves = Checkpoints(tmp_path, "1 steps", keep=2)
    saves.save(1, {"x": torch.zeros(100)})
    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(RuntimeError, match="allocate memory"):
        saves.newest()


def test_a_checkpoint_that_does_not_fit_leaves_nothing(tmp_path, monkeypatch):
    def full(value, file):
        file.write(b"part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        save_whole({"x": 1}, tmp_path / "step-000000001.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50 steps", (50, None)),
        ("10m", (None, 600.0)),
        ("30s", (None, 30.0)),
        ("1h", (None, 3600.0)),
    ],
)
def test_every_is_time_or_steps(text, expected):
    assert parse_every(text) == expected


def test_a_wrong_every_names_the_key():
    with pytest.raises(ValueError, match=r"checkpoint\.every is 'soon'"):
        parse_every("soon")


def test_metrics_rewind_to_the_checkpoint_and_drop_half_a_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n{"step": 3, "lo')
    metrics = Metrics(path, done=1)
    metrics.write(2, {"loss": 2.5})
    metrics.close()
    assert path.read_text() == '{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.5}\n'

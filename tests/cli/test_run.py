"""`run` and its display; the stages are stand-ins."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

import toolkit.stages
from tests.pipeline.fakes import Stages, load
from toolkit.__main__ import main
from toolkit.cli import display
from toolkit.data.scan import Scan
from toolkit.pipeline import gpu
from toolkit.spec.errors import StageFailed
from toolkit.stages.context import StageResult


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Stages:
    """Stages that need no torch, and data without problems."""
    fake = Stages()
    monkeypatch.setattr(toolkit.stages, "execute", fake)
    monkeypatch.setattr("toolkit.data.scan.scan", lambda spec: Scan())
    return fake


def run(folder: Path, *arguments: str) -> int:
    load(folder)
    return main(["run", str(folder / "spec.yaml"), *arguments])


def raising(error: BaseException):
    def happen() -> None:
        raise error

    return happen


def test_a_run_says_what_it_does_and_where_the_results_are(tmp_path, stages, capsys):
    assert run(tmp_path, "--until", "reward") == 0
    out = capsys.readouterr()
    assert out.err.startswith("device cpu (the spec says so), 2 threads")
    assert "sft: runs: not run yet\nsft: done in " in out.err
    assert out.out == f"results: {tmp_path}/runs/stages\n"
    assert run(tmp_path, "--until", "reward") == 0
    assert "sft: cached, same inputs (" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"), [(StageFailed("sft: the loss is nan"), 1), (KeyboardInterrupt(), 130)]
)
def test_a_run_that_stops_has_an_exit_code_and_goes_on(tmp_path, stages, capsys, error, code):
    stages.at[("sft", 3)] = raising(error)
    assert run(tmp_path, "--until", "sft") == code
    err = capsys.readouterr().err
    assert str(error) in err if code == 1 else "run the same command again" in err
    stages.at.clear()
    assert run(tmp_path, "--until", "sft") == 0
    assert "sft: continues: " in capsys.readouterr().err


def test_a_gate_has_exit_code_5(tmp_path, stages, capsys):
    stages.answers["reward.1"] = StageResult(summary={"accuracy": 0.3})
    assert run(tmp_path) == 5
    assert capsys.readouterr().err.splitlines()[-1].startswith("reward.1: held-out accuracy 0.300")


def test_overrides_and_a_wrong_stage_name(tmp_path, stages, capsys):
    assert run(tmp_path, "sft.epochs=1", "--until", "sft") == 0
    assert run(tmp_path, "--until", "rewrad") == 2
    assert "this run has no stage 'rewrad'" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["hardware.device=cuda"], ["--until", "rewrad"]])
def test_what_cannot_run_is_refused_before_there_is_a_folder(
    tmp_path, stages, capsys, monkeypatch, words
):
    monkeypatch.setattr(gpu, "find_gpu", lambda: "no NVIDIA GPU is here")
    refused = {"hardware.device=cuda": 4, "--until": 2}[words[0]]
    assert run(tmp_path, f"out={tmp_path}/new/folder", *words) == refused
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]
    assert stages.ran == []


def test_plain_lines_are_few_and_hold_the_figures(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    shown = display.PlainDisplay(stream, every=5.0)
    shown.begin("ppo.1", "runs: not run yet")
    for step in range(1, 101):
        clock[0] += 1.0
        shown.step(step, 100, {"objective/kl": 1.25, "tokens": 64.0, "unknown": 3.0})
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1 + 100 // 5
    assert lines[-2] == "ppo.1  95/100  kl 1.25  64 tokens/s  5s left"


def test_durations_are_short():
    assert [display.clock(s) for s in (41.6, 200, 7500)] == ["42s", "3m20s", "2h05m"]


def test_the_live_display_shows_stage_step_and_figures():
    from rich.console import Console

    shown = display.RichDisplay()
    shown.console = Console(file=io.StringIO(), force_terminal=True, width=120)
    shown.begin("sft", "runs: [not] run yet")
    shown.step(3, 9, {"loss": 0.5})
    shown.progress.refresh()
    shown.end("sft", "done")
    text = shown.console.file.getvalue()
    assert "runs: [not] run yet" in text
    assert "3/9" in text
    assert "loss 0.5" in text


def test_the_display_follows_log_and_terminal():
    assert type(display.make_display(["jsonl"])) is display.QuietDisplay
    assert type(display.make_display(["console"])) is display.PlainDisplay

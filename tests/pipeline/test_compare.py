from __future__ import annotations

import shutil

import pytest

from tests.pipeline.fakes import Stages, load
from toolkit.__main__ import main
from toolkit.pipeline.compare import compare_runs, why_it_ran
from toolkit.pipeline.runner import run
from toolkit.pipeline.store import Store
from toolkit.spec.errors import ToolkitError
from toolkit.stages.context import StageResult


@pytest.fixture
def two_runs(tmp_path, stages: Stages):
    """Two runs that differ in the KL coefficient, and in what evaluate reports."""
    stages.answers["evaluate"] = StageResult(summary={"models": {"sft": {"oracle": 0.5}}})
    run(load(tmp_path))
    shutil.copytree(tmp_path / "runs", tmp_path / "first", symlinks=True)
    stages.answers["evaluate"] = StageResult(summary={"models": {"sft": {"oracle": 0.75}}})
    run(load(tmp_path, ["ppo.kl.coef=0.02"]))
    return tmp_path / "first", tmp_path / "runs"


def test_the_cause_stands_at_the_stage_it_touches(two_runs):
    found = {d.name: d for d in compare_runs(*two_runs)}
    assert found["sft"].same
    assert found["ppo.1"].causes == ["ppo.kl.coef 0.3 -> 0.02"]
    assert found["evaluate"].causes == ["ppo.1 differs"]
    assert found["evaluate"].figures == {"models.sft.oracle": (0.5, 0.75)}


def test_a_stage_that_one_run_lacks_is_named(two_runs):
    shutil.rmtree(two_runs[1] / "stages/export")
    assert {d.name: d.causes for d in compare_runs(*two_runs)}["export"] == [
        "only in the first run"
    ]


def test_every_attempt_of_a_result_is_told(tmp_path, stages: Stages):
    def stop() -> None:
        raise KeyboardInterrupt

    stages.at[("sft", 3)] = stop
    with pytest.raises(KeyboardInterrupt):
        run(load(tmp_path))
    stages.at.clear()
    run(load(tmp_path))
    key = Store(tmp_path / "runs").done("sft").key
    assert [why for _, why in why_it_ran(tmp_path / "runs", "sft", key)] == [
        "runs: not run yet",
        "continues: interrupted at step 3 of 6: from its last checkpoint",
    ]


def test_the_commands_print_what_they_found(two_runs, capsys):
    first, second = map(str, two_runs)
    assert main(["diff", first, second]) == 0
    out = capsys.readouterr().out
    assert "ppo.1      ppo.kl.coef 0.3 -> 0.02\n" in out
    assert "    models.sft.oracle  0.5 -> 0.75" in out
    assert main(["explain", second, "ppo"]) == 0
    out = capsys.readouterr().out
    assert "  ppo.kl.coef: 0.02\n" in out
    assert "runs: ppo.kl.coef 0.3 -> 0.02\n" in out
    assert main(["explain", second, "pppo"]) == 1
    assert "has no finished stage pppo" in capsys.readouterr().err


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ToolkitError, match="not a run folder"):
        compare_runs(tmp_path, tmp_path)

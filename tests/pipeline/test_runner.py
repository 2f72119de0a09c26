from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pipeline.fakes import STAGES, STEPS, Stages, load
from toolkit.pipeline.events import read_events
from toolkit.pipeline.runner import prepare, run
from toolkit.spec.errors import GateFailed, SpecError, StageFailed, ToolkitError, WaitsForLabels
from toolkit.stages.context import StageResult

ROOT = Path(__file__).resolve().parents[2]

DRIVER = """
import sys
from pathlib import Path
import toolkit.stages
from tests.pipeline.fakes import Stages, kill, load
from toolkit.pipeline import attempt, runner
attempt.NOTE_EVERY = 0.0
folder, stage, step = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
fake = Stages()
fake.at[(stage, step)] = kill
toolkit.stages.execute = fake
if step == 0:
    from toolkit.pipeline import store
    def before_move(self, name, source, key, move=store.Store._move_into_place):
        if name == stage:
            kill()
        return move(self, name, source, key)
    store.Store._move_into_place = before_move
runner.run(load(folder))
"""


def raising(error: BaseException):
    def happen() -> None:
        raise error

    return happen


def results(folder: Path) -> dict[str, str]:
    return {n: (folder / "runs/stages" / n / "out.json").read_text() for n in STAGES}


def start(folder: Path, stage: str, step: int) -> subprocess.CompletedProcess[str]:
    load(folder)
    return subprocess.run(
        [sys.executable, "-c", DRIVER, str(folder), stage, str(step)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("stage", "step"), [("data", 1), ("sft", 3), ("sft", 0), ("ppo.1", STEPS), ("export", 0)]
)
def test_a_run_killed_anywhere_ends_as_if_it_had_not_been(tmp_path, stages: Stages, stage, step):
    (tmp_path / "whole").mkdir()
    run(load(tmp_path / "whole"))
    expected = results(tmp_path / "whole")
    stages.names()
    killed = tmp_path / "killed"
    killed.mkdir()
    assert start(killed, stage, step).returncode == -9
    _, decisions = prepare(load(killed))
    fate = next(d for d in decisions if d.node.name == stage)
    if step:
        assert fate.action == "continues"
        assert fate.why == f"interrupted at step {step} of {STEPS}: from its last checkpoint"
    else:
        assert fate.action == "cached"
    run(load(killed))
    began = {name: at for name, at in stages.ran}
    assert began.get(stage) == (step or None)
    assert results(killed) == expected
    assert list((killed / "runs/stages/.partial").iterdir()) == []


def test_a_stage_killed_before_its_first_checkpoint_starts_over(tmp_path, stages: Stages):
    def no_checkpoint(ctx):
        (ctx.work / "half.txt").write_text("x")
        raise KeyboardInterrupt

    import toolkit.stages

    toolkit.stages.execute = no_checkpoint
    with pytest.raises(KeyboardInterrupt):
        run(load(tmp_path))
    toolkit.stages.execute = stages
    _, decisions = prepare(load(tmp_path))
    assert decisions[0].why == "interrupted at its start, before its first checkpoint"
    run(load(tmp_path))
    assert not (tmp_path / "runs/stages/data/half.txt").exists()


def test_an_interrupt_leaves_the_work_and_the_next_run_goes_on(tmp_path, stages: Stages):
    stages.at[("sft", 4)] = raising(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(load(tmp_path))
    stages.at.clear()
    stages.ran.clear()
    run(load(tmp_path))
    assert stages.ran[0] == ("sft", 4)
    kinds = [e["event"] for e in read_events(tmp_path / "runs/events.jsonl")]
    assert kinds.count("stage_interrupted") == 1
    assert kinds[-1] == "run_finished"


def test_a_failed_stage_keeps_its_last_checkpoint_and_says_so(tmp_path, stages: Stages):
    stages.at[("sft", 5)] = raising(StageFailed("sft: the loss is nan at step 5"))
    with pytest.raises(StageFailed, match="nan at step 5"):
        run(load(tmp_path))
    assert list((tmp_path / "runs/stages/.partial").glob("sft-*/checkpoint/*.pt"))
    _, decisions = prepare(load(tmp_path))
    assert decisions[1].why == f"failed at step 5 of {STEPS}: from its last checkpoint"


def test_a_gate_stops_the_run_keeps_the_result_and_says_how_to_go_on(tmp_path, stages: Stages):
    stages.answers["reward.1"] = StageResult(summary={"accuracy": 0.41})
    for _ in range(2):
        with pytest.raises(GateFailed, match=r"reward\.1: held-out accuracy 0\.410 is below") as e:
            run(load(tmp_path))
        assert "reward.gate=null removes it" in str(e.value)
        assert e.value.exit_code == 5
    assert stages.names() == STAGES[:5]
    run(load(tmp_path, ["reward.gate.accuracy=0.4"]))
    assert stages.names() == STAGES[5:]


def test_a_stop_that_the_stage_chose_stops_every_run(tmp_path, stages: Stages):
    stages.answers["ppo.1"] = StageResult(gate="mean KL 71 is above ppo.stop_if.kl_above 50")
    for _ in range(2):
        with pytest.raises(GateFailed, match=r"ppo\.1: mean KL 71"):
            run(load(tmp_path))
    assert stages.names() == STAGES[:6]


def test_waiting_for_labels_is_no_failure(tmp_path, stages: Stages):
    stages.at[("label.1", 1)] = raising(WaitsForLabels("label.1: 12 prompts wait"))
    with pytest.raises(WaitsForLabels) as e:
        run(load(tmp_path))
    assert e.value.exit_code == 6
    assert "stage_failed" not in (tmp_path / "runs/events.jsonl").read_text()
    assert list((tmp_path / "runs/stages/.partial").iterdir()) == []
    fate = {d.node.name: d.why for d in prepare(load(tmp_path))[1]}
    assert fate["label.1"] == "not run yet"


def test_until_stops_and_the_next_run_goes_on(tmp_path, stages: Stages):
    run(load(tmp_path), "reward")
    assert stages.names() == STAGES[:5]
    run(load(tmp_path))
    assert stages.names() == STAGES[5:]
    with pytest.raises(SpecError, match="this run has no stage 'raward'"):
        run(load(tmp_path), "raward")


def test_a_second_process_is_refused_in_one_sentence(tmp_path, stages: Stages):
    def second() -> None:
        with pytest.raises(ToolkitError, match=f"process {os.getpid()} is running in this folder"):
            run(load(tmp_path))

    stages.at[("data", 1)] = second
    run(load(tmp_path))


def test_the_run_folder_says_what_it_was_made_from(tmp_path, stages: Stages):
    judge = tmp_path / "judge.py"
    judge.write_text("def score(prompts, responses): return [0.0] * len(prompts)\n")
    run(load(tmp_path, [f"label.fn={judge}:score"]))
    folder = tmp_path / "runs"
    lock = json.loads((folder / "lock.json").read_text())
    assert list(lock["inputs"]) == [str(judge)]
    assert lock["seed"] == 1
    assert lock["packages"]["torch"]
    assert lock["machine"]["threads"] == 2
    assert (folder / "spec.yaml").read_text() == (tmp_path / "spec.yaml").read_text()
    assert f"fn: {judge}:score" in (folder / "spec.resolved.yaml").read_text()
    deviations = json.loads((folder / "deviations.json").read_text())
    assert deviations["preset"] == "instructgpt/1.3b"
    assert "sft.epochs" in [row["path"] for row in deviations["recipe"]]
    assert (folder / "export").resolve() == folder.resolve() / "stages/export"


def test_done_json_holds_the_stage_s_account(tmp_path, stages: Stages):
    stages.answers["sft"] = StageResult(
        summary={"loss": float("nan"), "steps": 6}, warnings=("the loss rises",)
    )
    run(load(tmp_path))
    done = json.loads((tmp_path / "runs/stages/sft/done.json").read_text())
    assert done["summary"] == {"loss": None, "steps": 6}
    assert done["warnings"] == ["the loss rises"]
    assert done["parts"]["spec"]["sft.epochs"] == 4
    assert done["peak_memory"] > 10 * 2**20
    assert done["peak_memory_of"] in ("stage", "process")
    assert len(done["key"]) == 64


def test_working_time_adds_up_over_attempts(tmp_path, stages: Stages):
    def slow() -> None:
        time.sleep(0.3)
        raise KeyboardInterrupt

    stages.at[("sft", 2)] = slow
    with pytest.raises(KeyboardInterrupt):
        run(load(tmp_path))
    stages.at.clear()
    run(load(tmp_path))
    done = json.loads((tmp_path / "runs/stages/sft/done.json").read_text())
    assert 0.3 <= done["seconds"] < 5.0


def test_missing_tensorboard_is_one_sentence(tmp_path, stages: Stages, monkeypatch):
    from toolkit.pipeline import runner
    from toolkit.pipeline.events import Silent

    said = []
    display = Silent()
    monkeypatch.setattr(display, "say", said.append, raising=False)
    monkeypatch.setattr(runner.importlib.util, "find_spec", lambda name: None)
    seen = []
    stages.at[("data", 1)] = lambda: seen.append(1)
    run(load(tmp_path, ["log=[jsonl, tensorboard]"]), display=display)
    assert sum("tensorboard package is not installed" in text for text in said) == 1

"""What a user learns of an error that nobody foresaw, of a full disk, and of damaged results."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.pipeline.fakes import STEPS, Stages, load
from toolkit.pipeline import attempt, failures
from toolkit.pipeline.events import Events, read_events
from toolkit.pipeline.runner import prepare, run
from toolkit.pipeline.store import Store
from toolkit.spec.errors import StageFailed, ToolkitError


def raising(error: BaseException):
    def happen() -> None:
        raise error

    return happen


def stopped_by(folder: Path, stages: Stages, error: BaseException, stage="sft", step=3) -> str:
    stages.at[(stage, step)] = raising(error)
    with pytest.raises(StageFailed) as caught:
        run(load(folder))
    return str(caught.value)


def traceback_file(folder: Path) -> Path:
    (path,) = (folder / "runs/stages/.partial").glob("*/traceback.txt")
    return path


def test_an_unforeseen_error_names_stage_step_cause_way_on_and_traceback(tmp_path, stages):
    text = stopped_by(tmp_path, stages, KeyError("nope"))
    assert text == (
        f"sft stopped after step 3 of {STEPS}: an unforeseen KeyError: 'nope'; what is finished is "
        "kept, and the same command goes on from its last checkpoint; the traceback is in "
        f"{traceback_file(tmp_path)}"
    )
    assert "in happen" in traceback_file(tmp_path).read_text()
    events = read_events(tmp_path / "runs/events.jsonl")
    assert [e["message"] for e in events if e["event"] == "stage_failed"] == [text]


def test_what_follows_an_unforeseen_error_keeps_no_traceback(tmp_path, stages):
    stopped_by(tmp_path, stages, KeyError("nope"))
    stages.at.clear()
    run(load(tmp_path))
    assert not list((tmp_path / "runs").rglob("traceback.txt"))


def test_a_stage_without_a_checkpoint_is_started_again(tmp_path, monkeypatch):
    import toolkit.stages

    def breaks(ctx):
        raise ValueError

    monkeypatch.setattr(toolkit.stages, "execute", breaks)
    with pytest.raises(StageFailed) as caught:
        run(load(tmp_path))
    text = "data stopped before its first step: an unforeseen ValueError; what is finished is kept"
    assert str(caught.value).startswith(f"{text}, and the same command starts it again; ")


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space is left on the disk"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "make room"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "lower hardware.micro_batch"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            "gradient_checkpointing: true",
        ),
        (MemoryError(), "the memory does not suffice"),
        (PermissionError(errno.EACCES, "x", "a/b.pt"), "a/b.pt: permission denied; ask for"),
        (OSError(errno.ENOSPC, "x", "b/y"), "b/y: no space is left on that disk"),
    ],
)
def test_a_known_cause_comes_with_its_fix(tmp_path, stages, error, cause):
    assert cause in stopped_by(tmp_path, stages, error)


def test_the_cause_may_stand_behind_an_error_that_follows_from_it(tmp_path, stages):
    def happen() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise RuntimeError("unexpected pos 110592 vs 110484")

    stages.at[("sft", 3)] = happen
    with pytest.raises(StageFailed, match="no space is left on the disk"):
        run(load(tmp_path))


def test_a_cause_that_was_dealt_with_is_not_the_cause(tmp_path, stages):
    def happen() -> None:
        try:
            raise PermissionError(errno.EACCES, "x", "a")
        except PermissionError:
            raise KeyError("nope") from None

    stages.at[("sft", 3)] = happen
    with pytest.raises(StageFailed, match="an unforeseen KeyError: 'nope'"):
        run(load(tmp_path))


def test_an_error_that_explains_itself_stays_as_it_is(tmp_path, stages):
    assert stopped_by(tmp_path, stages, StageFailed("sft: lower sft.lr")) == "sft: lower sft.lr"


def test_an_explained_error_with_a_cause_leads_to_its_traceback(tmp_path, stages):
    def happen() -> None:
        try:
            raise ZeroDivisionError
        except ZeroDivisionError as error:
            raise StageFailed("judge.py:score raised ZeroDivisionError; mend it") from error

    stages.at[("sft", 3)] = happen
    with pytest.raises(StageFailed, match=r"mend it; the traceback is in .*traceback\.txt$"):
        run(load(tmp_path))
    assert "ZeroDivisionError" in traceback_file(tmp_path).read_text()


def test_a_disk_too_full_for_note_and_traceback_still_shows_the_cause(
    tmp_path, stages, monkeypatch
):
    full = OSError(errno.ENOSPC, "No space left on device")

    def fill() -> None:
        monkeypatch.setattr(Store, "note", lambda *_: raising(full)())
        monkeypatch.setattr(Events, "write", lambda *_, **__: raising(full)())
        monkeypatch.setattr(failures, "write_traceback", lambda *_: None)
        monkeypatch.setattr(attempt, "write_traceback", lambda *_: None)
        raise full

    stages.at[("sft", 3)] = fill
    with pytest.raises(
        StageFailed, match=r"no space is left .* its traceback could not be written"
    ):
        run(load(tmp_path))


@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_a_damaged_result_is_named_with_its_fix_before_anything_reads_it(tmp_path, stages, harm):
    run(load(tmp_path))
    stages.names()
    path = tmp_path / "runs/stages/sft/out.json"
    if harm == "cut":
        path.write_text("{")
    else:
        path.unlink()
    changed = load(tmp_path, ["ppo.kl.coef=0.5"])
    found = r"has 1 bytes and had \d+" if harm == "cut" else r"is gone; it had \d+ bytes"
    message = rf"ppo\.1 reads {path}, which {found} when sft finished; delete"
    with pytest.raises(ToolkitError, match=message):
        run(changed)
    assert stages.names() == []
    shutil.rmtree(path.parent)
    run(changed)
    assert stages.names() == ["sft", "ppo.1", "evaluate", "export"]


def test_a_damaged_result_that_nothing_reads_stops_nothing(tmp_path, stages):
    run(load(tmp_path))
    stages.names()
    (tmp_path / "runs/stages/sft/out.json").unlink()
    run(load(tmp_path))
    assert stages.names() == []


def test_a_done_file_without_sizes_is_read_as_ever(tmp_path, stages):
    run(load(tmp_path))
    stages.names()
    for path in (tmp_path / "runs/stages").glob("*/done.json"):
        value = json.loads(path.read_text())
        del value["files"]
        path.write_text(json.dumps(value))
    run(load(tmp_path, ["ppo.kl.coef=0.5"]))
    assert stages.names() == ["ppo.1", "evaluate", "export"]


def test_a_done_file_of_another_form_counts_as_none(tmp_path, stages):
    run(load(tmp_path))
    (tmp_path / "runs/stages/sft/done.json").write_text('{"key": 3, "parts": 5}')
    _, decisions = prepare(load(tmp_path))
    assert next(d for d in decisions if d.node.name == "sft").why == "not run yet"


def test_a_plan_of_a_run_folder_that_cannot_be_written_is_made(tmp_path, stages, monkeypatch):
    run(load(tmp_path))
    monkeypatch.setattr("toolkit.pipeline.digests.os.access", lambda *_: False)
    monkeypatch.setattr(
        "toolkit.pipeline.digests.write_json_atomic", raising(PermissionError(13, "x"))
    )
    judge = tmp_path / "judge.py"
    judge.write_text("def score(prompts, responses): return [0.0] * len(prompts)\n")
    os.utime(judge, (1, 1))
    _, decisions = prepare(load(tmp_path, [f"label.fn={judge}:score"]))
    assert decisions[3].action == "runs"

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.pipeline.fakes import STAGES, Stages, load
from toolkit.pipeline.events import Events, read_events
from toolkit.pipeline.files import write_json_atomic
from toolkit.pipeline.runner import prepare, run
from toolkit.pipeline.store import Done, Store

KEYS = ["a" * 64, "b" * 64]


class Cut(BaseException):
    """A kill at a chosen place."""


def finish(store: Store, name: str, key: str) -> None:
    work = store.begin(name, key)
    (work / "out.txt").write_text(key)
    store.publish(name, Done(key=key, parts={}))


def test_a_result_appears_with_its_done_file_and_without_its_checkpoint(tmp_path):
    store = Store(tmp_path)
    (store.begin("sft", KEYS[0]) / "checkpoint").mkdir()
    finish(store, "sft", KEYS[0])
    assert sorted(p.name for p in (tmp_path / "stages/sft").iterdir()) == ["done.json", "out.txt"]


def test_a_replaced_result_is_kept_and_comes_back(tmp_path):
    store = Store(tmp_path)
    for key in KEYS:
        finish(store, "sft", key)
    assert store.old("sft", KEYS[0]) is not None
    store.reuse_old("sft", KEYS[0])
    assert (store.folder("sft") / "out.txt").read_text() == KEYS[0]
    assert store.old("sft", KEYS[0]) is None
    assert store.old("sft", KEYS[1]) is not None


@pytest.mark.parametrize("cut_at", range(6))
def test_a_cut_at_any_rename_loses_neither_result(tmp_path, monkeypatch, cut_at):
    store = Store(tmp_path)
    finish(store, "sft", KEYS[0])
    count = 0
    rename = Path.rename

    def cutting(self, target):
        nonlocal count
        count += 1
        if count == cut_at:
            raise Cut
        return rename(self, target)

    work = store.begin("sft", KEYS[1])
    (work / "out.txt").write_text(KEYS[1])
    (work / "checkpoint").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", cutting)
        try:
            store.publish("sft", Done(key=KEYS[1], parts={}))
        except Cut:
            assert store.unpublished("sft", KEYS[1]) is not None
    store.recover()
    assert (store.folder("sft") / "out.txt").read_text() == KEYS[1]
    assert not (store.folder("sft") / "checkpoint").exists()
    old = store.old_folder("sft", KEYS[0])
    assert (old / "out.txt").read_text() == KEYS[0]
    assert store.done("sft").key == KEYS[1]


@pytest.mark.parametrize("cut_at", [1, 2])
def test_a_cut_while_an_old_result_comes_back_loses_neither(tmp_path, monkeypatch, cut_at):
    store = Store(tmp_path)
    for key in KEYS:
        finish(store, "sft", key)
    count = 0
    rename = Path.rename

    def cutting(self, target):
        nonlocal count
        count += 1
        if count == cut_at:
            raise Cut
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", cutting)
        with pytest.raises(Cut):
            store.reuse_old("sft", KEYS[0])
    store.recover()
    assert store.old("sft", KEYS[0]) is not None
    store.reuse_old("sft", KEYS[0])
    assert store.done("sft").key == KEYS[0]
    assert store.old("sft", KEYS[1]) is not None


def test_a_result_cut_off_before_its_move_counts_as_finished(tmp_path, stages: Stages):
    run(load(tmp_path))
    stages.names()
    done = json.loads((tmp_path / "runs/stages/export/done.json").read_text())
    partials = tmp_path / "runs/stages/.partial"
    (tmp_path / "runs/stages/export").rename(partials / f"export-{done['key'][:12]}")
    _, decisions = prepare(load(tmp_path))
    assert decisions[-1].action == "cached"
    run(load(tmp_path))
    assert stages.names() == []
    assert (tmp_path / "runs/stages/export/done.json").exists()


def test_a_half_written_done_file_does_not_count(tmp_path, stages: Stages):
    run(load(tmp_path))
    stages.names()
    done = tmp_path / "runs/stages/export/done.json"
    done.write_text(done.read_text()[:40])
    run(load(tmp_path))
    assert stages.names() == ["export"]


def test_leftovers_without_a_checkpoint_do_not_reach_the_next_attempt(tmp_path):
    store = Store(tmp_path)
    (store.begin("sft", KEYS[0]) / "half.txt").write_text("x")
    assert list(store.begin("sft", KEYS[0]).iterdir()) == []


def test_from_scratch_keeps_one_copy(tmp_path, stages: Stages):
    run(load(tmp_path))
    stages.names()
    run(load(tmp_path), from_scratch=True)
    assert stages.names() == STAGES
    assert not (tmp_path / "runs/stages/.old").exists()


def test_a_json_file_is_whole_or_absent(tmp_path):
    path = tmp_path / "x.json"
    write_json_atomic(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json_atomic(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_an_event_line_that_a_kill_tore_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"event": "one"}\n{"event": "tw')
    events = Events(path)
    events.write("three", stage="sft")
    events.close()
    assert [e["event"] for e in read_events(path)] == ["one", "three"]

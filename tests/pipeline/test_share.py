"""Stages that another run has finished are linked, not run again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.pipeline.fakes import STAGES, Stages, load
from toolkit.pipeline.runner import prepare, run
from toolkit.pipeline.store import Store, read_done
from toolkit.spec.errors import ToolkitError


def variant(folder: Path, name: str, *overrides: str):
    return load(folder, [f"out={folder / 'all' / name}", f"share={folder / 'all'}", *overrides])


def actions(loaded) -> dict[str, str]:
    return {d.node.name: d.action for d in prepare(loaded)[1]}


def test_the_same_stages_are_linked_and_only_the_others_run(tmp_path, stages: Stages):
    run(variant(tmp_path, "one"))
    assert stages.names() == STAGES
    second = variant(tmp_path, "two", "ppo.kl.coef=0.9")
    assert [n for n, a in actions(second).items() if a == "adopted"] == STAGES[:5]
    why = next(d.why for d in prepare(second)[1] if d.node.name == "sft")
    assert why.startswith(f"linked from {tmp_path / 'all/one/stages/sft'} (")
    run(second)
    assert stages.names() == ["ppo.1", "evaluate", "export"]
    files = [tmp_path / "all" / name / "stages/sft/out.json" for name in ("one", "two")]
    assert os.path.samefile(*files)
    assert set(actions(second).values()) == {"cached"}


def test_a_result_stays_when_the_run_it_came_from_goes_on(tmp_path, stages: Stages):
    run(variant(tmp_path, "one"))
    run(variant(tmp_path, "two"))
    kept = (tmp_path / "all/two/stages/ppo.1/out.json").read_text()
    run(variant(tmp_path, "one", "ppo.kl.coef=0.9"))
    assert (tmp_path / "all/two/stages/ppo.1/out.json").read_text() == kept


def test_from_scratch_and_another_seed_link_nothing(tmp_path, stages: Stages):
    run(variant(tmp_path, "one"))
    stages.names()
    assert "adopted" not in actions(variant(tmp_path, "two", "seed=9")).values()
    run(variant(tmp_path, "two"), from_scratch=True)
    assert stages.names() == STAGES


def test_a_damaged_result_of_a_sibling_is_not_linked(tmp_path, stages: Stages):
    run(variant(tmp_path, "one"))
    (tmp_path / "all/one/stages/sft/out.json").write_text("{")
    fate = actions(variant(tmp_path, "two"))
    assert fate["data"] == "adopted"
    assert fate["sft"] == "runs"


def test_a_kill_while_linking_leaves_no_result(tmp_path, stages: Stages, monkeypatch):
    run(variant(tmp_path, "one"))
    done = read_done(tmp_path / "all/one/stages/sft")
    assert done is not None

    def killed(source, target):
        raise KeyboardInterrupt

    import toolkit.pipeline.store as module

    store = Store(tmp_path / "all/two")
    monkeypatch.setattr(module, "_link", killed)
    try:
        store.adopt("sft", done.key, tmp_path / "all/one/stages/sft")
    except KeyboardInterrupt:
        monkeypatch.undo()
    assert store.done("sft") is None
    assert store.unpublished("sft", done.key) is None
    store.adopt("sft", done.key, tmp_path / "all/one/stages/sft")
    assert store.done("sft") == done


def test_a_result_that_its_run_replaces_meanwhile_is_not_linked(tmp_path, stages: Stages):
    run(variant(tmp_path, "one"))
    source = tmp_path / "all/one/stages/ppo.1"
    done = read_done(source)
    assert done is not None
    run(variant(tmp_path, "one", "ppo.kl.coef=0.9"))
    store = Store(tmp_path / "all/two")
    for gone in (source, tmp_path / "all/one/stages/nowhere"):
        with pytest.raises(ToolkitError, match=r"^ppo\.1: .* was replaced .*; run again$"):
            store.adopt("ppo.1", done.key, gone)
    assert store.done("ppo.1") is None
    assert store.unpublished("ppo.1", done.key) is None
    assert store.recover() == []

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.pipeline.fakes import STAGES, Stages, load
from toolkit.pipeline import graph
from toolkit.pipeline.digests import Digests, function_file
from toolkit.pipeline.identity import compute_key
from toolkit.pipeline.reasons import changes, sentence
from toolkit.pipeline.runner import prepare, run


def fates(folder: Path, *overrides: str) -> dict[str, str]:
    _, decisions = prepare(load(folder, overrides))
    return {d.node.name: f"{d.action}: {d.why}" for d in decisions}


def test_a_first_run_runs_everything(tmp_path, stages: Stages):
    assert set(fates(tmp_path).values()) == {"runs: not run yet"}
    run(load(tmp_path))
    assert stages.names() == STAGES


def test_a_second_run_reuses_every_stage(tmp_path, stages: Stages):
    run(load(tmp_path))
    stages.names()
    assert all(f.startswith("cached: same inputs (") for f in fates(tmp_path).values())
    run(load(tmp_path))
    assert stages.names() == []


def test_a_new_kl_coefficient_runs_ppo_and_what_reads_it(tmp_path, stages: Stages):
    run(load(tmp_path))
    stages.names()
    found = fates(tmp_path, "ppo.kl.coef=0.05")
    assert found["ppo.1"] == "runs: ppo.kl.coef 0.3 -> 0.05"
    assert found["evaluate"] == found["export"] == "runs: because ppo.1 runs"
    assert [n for n, f in found.items() if f.startswith("cached")] == STAGES[:5]
    run(load(tmp_path, ["ppo.kl.coef=0.05"]))
    assert stages.names() == ["ppo.1", "evaluate", "export"]


def test_folds_are_measured_without_training_anything_else_again(tmp_path, stages: Stages):
    people = "label.labelers={}"
    run(load(tmp_path, [people]))
    stages.names()
    run(load(tmp_path, [people, "folds={}"]))
    assert stages.names() == ["folds"]
    assert fates(tmp_path, people, "folds.count=3")["folds"] == "runs: folds.count 5 -> 3"
    run(load(tmp_path, [people, "folds.count=3"]))
    assert stages.names() == ["folds"]


def test_going_back_takes_the_replaced_result(tmp_path, stages: Stages):
    run(load(tmp_path))
    first = (tmp_path / "runs/stages/ppo.1/done.json").read_text()
    run(load(tmp_path, ["ppo.kl.coef=0.05"]))
    stages.names()
    assert fates(tmp_path)["ppo.1"].startswith("reused: from stages/.old (")
    run(load(tmp_path))
    assert stages.names() == []
    assert (tmp_path / "runs/stages/ppo.1/done.json").read_text() == first
    old = {p.name.rpartition("-")[0] for p in (tmp_path / "runs/stages/.old").iterdir()}
    assert old == {"ppo.1", "evaluate", "export"}


@pytest.mark.parametrize(
    ("override", "stage", "reason"),
    [
        ("seed=5", "data", "seed 1 -> 5"),
        ("hardware.threads=1", "sft", "hardware.threads 2 -> 1"),
        ("ppo.ptx={ratio: 1, length: 64}", "ppo.1", "ppo.ptx null -> set"),
        ("ppo.ema=null", "ppo.1", "ppo.ema 0.9 -> null"),
        ("collect.k=5", "collect.1", "collect.k [4, 4] -> [5, 5]"),
        ("evaluate.prompts=99", "evaluate", "evaluate.prompts 512 -> 99"),
    ],
)
def test_a_changed_key_is_named(tmp_path, stages: Stages, override, stage, reason):
    run(load(tmp_path))
    weights = ["evaluate.weights=last", "export.weights=last"] if "ema" in override else []
    assert fates(tmp_path, override, *weights)[stage] == f"runs: {reason}"


def test_threads_do_not_touch_stages_that_compute_nothing(tmp_path, stages: Stages):
    run(load(tmp_path))
    assert fates(tmp_path, "hardware.threads=1")["data"].startswith("cached")


@pytest.mark.parametrize("override", ["log=[jsonl]", "checkpoint.every=7s", "reward.gate=null"])
def test_keys_that_change_no_result_run_nothing(tmp_path, stages: Stages, override):
    run(load(tmp_path))
    assert all(f.startswith("cached") for f in fates(tmp_path, override).values())


def test_a_raised_version_runs_the_stage(tmp_path, stages: Stages, monkeypatch):
    run(load(tmp_path))
    now = graph.VERSIONS["sft"]
    monkeypatch.setattr(graph, "VERSIONS", {**graph.VERSIONS, "sft": now + 1})
    found = fates(tmp_path)
    assert found["sft"] == f"runs: stage version {now} -> {now + 1}"
    assert found["reward.1"] == "runs: because sft and label.1 run"


def test_another_instruction_set_runs_what_computes(tmp_path, stages: Stages, monkeypatch):
    run(load(tmp_path))
    monkeypatch.setenv("RLHF_KERNELS_ISA", "baseline")
    assert fates(tmp_path)["sft"] == "runs: hardware.kernels null -> baseline"


def test_a_changed_file_is_named_with_both_digests(tmp_path, stages: Stages):
    judge = tmp_path / "judge.py"
    judge.write_text("def score(prompts, responses): return [0.0] * len(prompts)\n")
    fn = f"label.fn={judge}:score"
    run(load(tmp_path, [fn]))
    before = Digests().file(judge)[:6]
    judge.write_text("def score(prompts, responses): return [1.0] * len(prompts)\n")
    after = Digests().file(judge)[:6]
    assert fates(tmp_path, fn)["label.1"] == f"runs: {judge} changed ({before} -> {after})"


def test_many_reasons_are_counted():
    assert sentence(["a", "b", "c", "d", "e"]) == "a; b; c; and 2 more"


def test_reasons_never_come_out_empty_when_parts_differ():
    old = {"version": 1, "spec": {"a.b": 1}, "files": {}, "seed": 1, "hardware": {}, "inputs": {}}
    for name, value in [
        ("version", 2),
        ("spec", {"a.b": 2}),
        ("spec", {}),
        ("spec", {"a": None}),
        ("files", {"x": "0" * 32}),
        ("seed", 2),
        ("hardware", {"threads": 1}),
        ("inputs", {"sft": "1" * 64}),
    ]:
        new = {**old, name: value}
        assert changes(old, new, {}, {"sft": "sft"}), (name, value)
        assert compute_key(old) != compute_key(new)


def test_a_section_set_to_null_is_one_reason():
    old = {"version": 1, "spec": {"ppo.ptx.coef": 1.0, "ppo.ptx.ratio": 8.0}, "files": {}}
    old |= {"seed": 1, "hardware": {}, "inputs": {}}
    new = {**old, "spec": {"ppo.ptx": None}}
    assert changes(old, new, {}, {}) == ["ppo.ptx set -> null"]
    assert changes(new, old, {}, {}) == ["ppo.ptx null -> set"]


def test_a_key_does_not_depend_on_order():
    assert compute_key({"a": 1, "b": {"c": 2, "d": 3}}) == compute_key(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )


def test_digests_are_remembered_and_renewed(tmp_path, monkeypatch):
    file = tmp_path / "data.jsonl"
    file.write_text("one")
    os.utime(file, ns=(10**18, 10**18))
    cache = tmp_path / "digests.json"
    first = Digests(cache)
    digest = first.file(file)
    first.save()

    def refuse(path):
        raise AssertionError(f"{path} was read again")

    with monkeypatch.context() as patch:
        patch.setattr("toolkit.pipeline.digests._read_digest", refuse)
        assert Digests(cache).file(file) == digest
    file.write_text("two!")
    assert Digests(cache).file(file) != digest


def test_a_file_changed_just_now_is_not_remembered(tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_text("one")
    digests = Digests(tmp_path / "digests.json")
    first = digests.file(file)
    stat = file.stat()
    file.write_text("two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digests.file(file) != first


def test_the_file_of_a_module_is_found_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "judges"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "sort.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert function_file("judges.sort:score") == str(package / "sort.py")
    assert function_file("dir/judge.py:score") == "dir/judge.py"

from __future__ import annotations

import pytest

from tests.pipeline.fakes import STAGES, load
from toolkit.data.scan import Scan
from toolkit.pipeline.plan import make_plan, usable_sources
from toolkit.pipeline.work import ppo_iterations, ppo_optimizer_steps, reward_steps, sft_steps
from toolkit.spec.errors import DataError, Problem
from toolkit.spec.schema import Ppo, Reward, Sft


@pytest.fixture
def scanned(monkeypatch):
    """Replace the scan of data files by one that finds what the test puts in."""
    counts = {
        "demonstrations": {"read": 4000, "kept": 4000, "train": 3600, "valid": 400},
        "prompts": {"read": 8704, "kept": 8704, "train": 8192, "valid": 512},
    }
    found = Scan(counts=counts)
    monkeypatch.setattr("toolkit.data.scan.scan", lambda spec: found)
    return found


def test_the_work_of_every_stage_is_counted(tmp_path, scanned):
    work = {s.decision.node.name: s.work for s in make_plan(load(tmp_path)).stages}
    assert work == {
        "data": "",
        "sft": "4 epochs, 228 steps",
        "collect.1": "1500 prompts, 4 answers each",
        "label.1": "1500 prompts",
        "reward.1": "1 epoch, about 85 steps",
        "ppo.1": "64 iterations, 64 optimizer steps",
        "evaluate": "512 prompts",
        "export": "",
    }


def test_planning_writes_nothing(tmp_path, scanned):
    make_plan(load(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["spec.yaml"]


def test_dropped_records_are_said_by_rule(tmp_path, scanned):
    scanned.counts = {
        "prompts": {"read": 90, "kept": 85, "train": 80, "valid": 5, "too long": 3, "duplicate": 2}
    }
    notes = make_plan(load(tmp_path)).notes
    assert notes == ["prompts: 90 read; dropped: 3 too long, 2 duplicate"]


def test_renormalised_sources_are_said(tmp_path, scanned):
    notes = make_plan(load(tmp_path, ["collect.sources={base: 0.3, sft: 0.3, ppo: 0.4}"])).notes
    assert notes == [
        "collect.1: there is no PPO policy yet, so the sources are base 0.50, sft 0.50"
    ]
    assert usable_sources({"sft": 3, "ppo": 1}, ppo_exists=True) == {"sft": 0.75, "ppo": 0.25}


def test_bad_data_stops_a_plan(tmp_path, scanned):
    scanned.problems.append(Problem("d.jsonl", 3, 0, "prompt", "is empty"))
    with pytest.raises(DataError, match=r"d\.jsonl:3  prompt  is empty"):
        make_plan(load(tmp_path))


@pytest.mark.parametrize(
    ("episodes", "batch", "minibatch", "inner", "iterations", "steps"),
    [
        (256000, 512, 64, 1, 500, 4000),  # InstructGPT C.4
        (8192, 128, 128, 1, 64, 64),
        (1024, 128, 32, 4, 8, 128),
        (512, 512, 512, 3, 1, 3),
    ],
)
def test_ppo_optimizer_steps(episodes, batch, minibatch, inner, iterations, steps):
    ppo = Ppo(episodes=episodes, batch=batch, minibatch=minibatch, inner_epochs=inner)
    assert ppo_iterations(ppo) == iterations
    assert ppo_optimizer_steps(ppo) == steps


def test_a_last_part_of_a_batch_is_a_step():
    assert sft_steps(Sft(epochs=16, batch=32), 13000) == 16 * 407
    assert sft_steps(Sft(epochs=2, batch=32), 32) == 2
    assert reward_steps(Reward(epochs=1, batch=64), 65) == 2


def test_the_command_prints_a_table_and_a_document(tmp_path, scanned, capsys):
    import json

    from toolkit.__main__ import main

    load(tmp_path)
    assert main(["plan", str(tmp_path / "spec.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[: len(STAGES)]] == STAGES
    assert lines[1].split("  ")[0] == "sft"
    assert lines[1].endswith("runs: not run yet  4 epochs, 228 steps")
    assert main(["plan", str(tmp_path / "spec.yaml"), "ppo.kl.coef=0.05", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [s["name"] for s in document["stages"]] == STAGES
    assert document["stages"][5]["steps"] == 64

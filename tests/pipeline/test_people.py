"""A run that takes people's rankings from its own folder: keys, reasons, and where it waits."""

from __future__ import annotations

import json
import shutil

import pytest

import toolkit.stages
from tests.pipeline.fakes import Stages, load
from toolkit.pipeline.digests import ABSENT
from toolkit.pipeline.graph import build_graph
from toolkit.pipeline.identity import spec_slice
from toolkit.pipeline.people import find_waiting
from toolkit.pipeline.plan import make_plan
from toolkit.pipeline.runner import prepare, run
from toolkit.pipeline.store import Store
from toolkit.spec.errors import StageFailed, ToolkitError, WaitsForLabels
from toolkit.stages.people import ranked_in_run

PEOPLE = ("label={by: people}", "reward.gate=null")
SAMPLES = [{"prompt": f"p{n}", "responses": ["a", "b"]} for n in range(10)]
FILLED = [
    s | {"responses_ids": [[1], [2]], "finished": [True] * 2, "source": ["sft"] * 2}
    for s in SAMPLES
]


class Waits(Stages):
    """Collects `samples`; its label stage reads people's rankings as the real one does."""

    samples = FILLED

    def __call__(self, ctx):
        if ctx.kind == "label":
            ranked_in_run(ctx.name, ctx.spec.out, self.samples, ctx.spec.label.quorum)
        result = super().__call__(ctx)
        if ctx.kind == "collect":
            lines = "".join(json.dumps(sample) + "\n" for sample in self.samples)
            (ctx.work / "samples.jsonl").write_text(lines)
        return result


@pytest.fixture
def waits(monkeypatch):
    fake = Waits()
    monkeypatch.setattr(toolkit.stages, "execute", fake)
    return fake


def rank(folder, numbers, stage="label.1", labeler="ann"):
    file = folder / "runs" / "ranked" / f"{stage}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [SAMPLES[n] | {"ranks": [1, 2], "labeler": labeler} for n in numbers]
    with file.open("a") as out:
        out.write("".join(json.dumps(row) + "\n" for row in rows))
    return file


def fates(folder, *overrides):
    _, decisions = prepare(load(folder, [*PEOPLE, *overrides]))
    return {d.node.name: f"{d.action}: {d.why}" for d in decisions}


def go(folder, *overrides):
    return run(load(folder, [*PEOPLE, *overrides]))


def test_only_label_reads_the_runs_own_rankings_and_each_round_has_its_own(tmp_path):
    spec = load(tmp_path, [*PEOPLE, "rounds=2"]).spec
    own = {node.name: node.own for node in build_graph(spec) if node.own}
    assert own == {
        "label.1": ("ranked/label.1.jsonl",),
        "label.2": ("ranked/label.2.jsonl",),
    }
    file = tmp_path / "ranked.jsonl"
    file.touch()
    given = load(tmp_path, [f"label={{by: people, file: {file}}}"]).spec
    assert not any(node.own for node in (*build_graph(given), *build_graph(load(tmp_path).spec)))


def test_who_ranks_and_how_many_must_be_no_part_of_a_key(tmp_path):
    spec = load(tmp_path, PEOPLE).spec
    label = next(node for node in build_graph(spec) if node.kind == "label")
    assert not {"label.overlap", "label.quorum"} & set(spec_slice(spec, label.paths, label.ignored))


def test_a_run_waits_below_the_quorum_and_goes_on_from_it(tmp_path, waits):
    folder = tmp_path / "runs"
    with pytest.raises(WaitsForLabels) as caught:
        go(tmp_path, "label.quorum=0.8")
    assert str(caught.value) == (
        "label.1: 0 of 10 prompts are ranked; rank on the page of "
        f"`python -m toolkit label {folder}`, or add a file of rankings with its --import, until "
        "8 are (label.quorum 0.8); then run again: what is finished is kept"
    )
    assert waits.names() == ["data", "sft", "collect.1"]
    rank(tmp_path, range(7))
    with pytest.raises(WaitsForLabels, match="7 of 10 prompts are ranked"):
        go(tmp_path, "label.quorum=0.8")
    assert waits.names() == []
    rank(tmp_path, [7])
    go(tmp_path, "label.quorum=0.8")
    assert waits.names() == ["label.1", "reward.1", "ppo.1", "evaluate", "export"]
    go(tmp_path, "label.quorum=0.8", "label.overlap=0.5")
    assert waits.names() == []


def test_more_rankings_rank_anew_with_a_reason(tmp_path, waits):
    rank(tmp_path, range(10))
    go(tmp_path)
    before = fates(tmp_path)
    assert before["label.1"].startswith("cached")
    rank(tmp_path, [3], labeler="bob")
    after = fates(tmp_path)
    assert after["collect.1"].startswith("cached")
    assert after["label.1"].startswith("runs: ranked/label.1.jsonl changed (")
    assert after["reward.1"] == "runs: because label.1 runs"


def test_a_run_folder_that_is_moved_keeps_its_results(tmp_path, waits):
    rank(tmp_path, range(10))
    go(tmp_path)
    shutil.move(tmp_path / "runs", tmp_path / "moved")
    found = fates(tmp_path, f"out={tmp_path / 'moved'}")
    assert {fate.split(":")[0] for fate in found.values()} == {"cached"}


def test_rankings_that_come_while_the_stage_reads_are_taken_by_the_next_run(tmp_path, waits):
    rank(tmp_path, range(10))
    waits.at[("label.1", 2)] = lambda: rank(tmp_path, [0], labeler="bob")
    with pytest.raises(StageFailed, match="was added to after the run had looked at it"):
        go(tmp_path)
    assert not (tmp_path / "runs/stages/label.1").exists()
    waits.at.clear()
    go(tmp_path)
    assert fates(tmp_path)["label.1"].startswith("cached")


def test_a_plan_says_whether_it_waits(tmp_path, waits):
    def work(*overrides):
        plan = make_plan(load(tmp_path, [*PEOPLE, *overrides]))
        return next(s.work for s in plan.stages if s.decision.node.name == "label.1")

    assert work().endswith(" prompts, then waits for people")
    with pytest.raises(WaitsForLabels):
        go(tmp_path)
    rank(tmp_path, range(4))
    assert work().endswith(" prompts, waits: 4 of 10 prompts are ranked")
    assert work("label.quorum=0.4").endswith(" prompts, 4 of 10 prompts are ranked")
    assert work("label={by: oracle}").endswith(" prompts")
    rank(tmp_path, range(10))
    go(tmp_path)
    assert work().endswith(" prompts")


def test_a_plan_of_answers_that_are_not_in_place_or_damaged_is_a_sentence(tmp_path, waits):
    with pytest.raises(WaitsForLabels):
        go(tmp_path)
    store = Store(tmp_path / "runs")
    place, key = store.folder("collect.1"), store.done("collect.1").key
    before = store.partial_folder("collect.1", key)  # as a kill leaves it
    place.rename(before)
    plan = make_plan(load(tmp_path, PEOPLE))
    fates = {stage.decision.node.name: stage for stage in plan.stages}
    assert fates["collect.1"].decision.why.endswith("to be moved into place")
    assert fates["label.1"].work.endswith(" prompts, then waits for people")
    before.rename(place)
    (place / "samples.jsonl").write_text('{"prompt": ')
    with pytest.raises(ToolkitError, match=r"label reads .*samples\.jsonl, which has 11 bytes"):
        make_plan(load(tmp_path, PEOPLE))


def test_a_key_of_a_stage_that_waits_names_the_absent_file(tmp_path):
    _, decisions = prepare(load(tmp_path, PEOPLE))
    parts = next(d.parts for d in decisions if d.node.name == "label.1")
    assert parts["files"] == {"ranked/label.1.jsonl": ABSENT}


def test_the_round_that_waits_is_found(tmp_path, waits):
    folder = tmp_path / "runs"
    with pytest.raises(WaitsForLabels):
        go(tmp_path, "rounds=2")
    found = find_waiting(folder)
    assert (found.stage, found.round, found.samples) == ("label.1", 1, FILLED)
    rank(tmp_path, range(10))
    with pytest.raises(WaitsForLabels, match=r"label\.2: 0 of 10 prompts"):
        go(tmp_path, "rounds=2")
    assert find_waiting(folder).file == folder / "ranked/label.2.jsonl"
    rank(tmp_path, range(10), stage="label.2")
    go(tmp_path, "rounds=2")
    with pytest.raises(ToolkitError, match=r"any more: label\.2 is done, and so is the run"):
        find_waiting(folder)


def test_after_the_last_round_it_is_said_what_comes_next(tmp_path, waits):
    folder = tmp_path / "runs"
    file = rank(tmp_path, range(10))
    run(load(tmp_path, PEOPLE), "label")

    def why():
        with pytest.raises(ToolkitError) as caught:
            find_waiting(folder)
        return str(caught.value)

    assert why() == (
        f"{folder}: nothing waits to be ranked any more: label.1 is done; type the same `run` "
        "command again, which goes on with reward.1"
    )
    go(tmp_path)
    assert why() == (
        f"{folder}: nothing waits to be ranked any more: label.1 is done, and so is the run; "
        f"`python -m toolkit report {folder}` shows how it came out; to add or correct a ranking, "
        f"append it to {file} and type the same `run` command again"
    )
    rank(tmp_path, [3], labeler="bob")
    assert why() == (
        f"{folder}: {file} has changed since label.1 read it; type the same `run` command again, "
        "which ranks anew"
    )
    run(load(tmp_path, PEOPLE), "label")
    assert why().endswith("run` command again, which goes on with reward.1")
    go(tmp_path)
    assert "label.1 is done, and so is the run" in why()


def test_a_later_round_is_not_ranked_before_the_run_has_taken_what_was_added_to_an_earlier(
    tmp_path, waits
):
    rank(tmp_path, range(10))
    with pytest.raises(WaitsForLabels):
        go(tmp_path, "rounds=2")
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "runs", moved)
    assert find_waiting(moved).stage == "label.2"
    rank(tmp_path, [3], labeler="bob")
    with pytest.raises(ToolkitError, match=r"ranked/label\.1\.jsonl: has changed since the run"):
        find_waiting(tmp_path / "runs")
    with pytest.raises(WaitsForLabels):
        go(tmp_path, "rounds=2")
    assert find_waiting(tmp_path / "runs").stage == "label.2"


def test_a_round_that_people_still_rank_knows_what_became_of_it(tmp_path, waits):
    with pytest.raises(WaitsForLabels):
        go(tmp_path)
    found = find_waiting(tmp_path / "runs")
    assert (found.is_taken(), found.is_outdated()) == (False, False)
    rank(tmp_path, range(10))
    go(tmp_path)
    assert (found.is_taken(), found.is_outdated()) == (True, False)
    run(load(tmp_path, [*PEOPLE, "seed=9"]), "collect")
    assert found.is_outdated()


def test_answers_that_are_collected_anew_wait_again_and_old_rankings_are_set_aside(tmp_path, waits):
    rank(tmp_path, range(10))
    go(tmp_path)
    waits.samples = [sample | {"responses": ["a", "z"]} for sample in FILLED]
    with pytest.raises(WaitsForLabels, match="0 of 10 prompts"):
        go(tmp_path, "seed=9")
    assert find_waiting(tmp_path / "runs").stage == "label.1"
    assert fates(tmp_path, "seed=9")["label.1"].startswith("runs: ")


def test_what_is_the_matter_is_said_in_a_sentence(tmp_path, waits):
    folder = tmp_path / "runs"

    def why():
        with pytest.raises(ToolkitError) as caught:
            find_waiting(folder)
        return str(caught.value)

    assert why() == f"{folder}: there is no such run folder; give the `out` of a spec"
    folder.mkdir()
    assert "not a run folder, it has no spec.resolved.yaml" in why()
    run(load(tmp_path, ["reward.gate=null"]), "sft")
    assert "label.by is oracle, so nothing waits for people" in why()
    run(load(tmp_path, PEOPLE), "sft")
    assert why().startswith("label.1: nothing to rank yet, collect.1 has not finished")
    run(load(tmp_path, PEOPLE), "collect")
    assert find_waiting(folder).stage == "label.1"
    run(load(tmp_path, [*PEOPLE, "seed=5"]), "sft")
    assert why().startswith("label.1: nothing to rank yet, collect.1 is of an earlier spec; type")
    with pytest.raises(WaitsForLabels):
        go(tmp_path)
    (folder / "stages/collect.1/samples.jsonl").write_text("")
    assert "label reads" in why()
    assert "delete" in why()
    file = tmp_path / "ranked.jsonl"
    file.touch()
    run(load(tmp_path, [f"label={{by: people, file: {file}}}"]), "collect")
    assert f"its rankings are those of label.file, {file}" in why()

from __future__ import annotations

import dataclasses

import pytest

from tests.pipeline.fakes import STAGES, load
from tests.stub_model import make_stub_model
from toolkit.pipeline.graph import build_graph, select
from toolkit.pipeline.identity import flatten, spec_slice
from toolkit.spec.schema import LEARNERS, Data, DataFile, Ppo, Spec


def test_stages_stand_in_the_order_they_run(tmp_path):
    assert [n.name for n in build_graph(load(tmp_path).spec)] == STAGES


def test_every_input_is_an_earlier_stage(tmp_path):
    seen = set()
    for node in build_graph(load(tmp_path, ["pretrain={}"]).spec):
        assert set(node.inputs.values()) <= seen
        seen.add(node.name)
    assert "pretrain" in seen


def test_a_finished_reward_model_replaces_collect_label_and_reward(tmp_path):
    (tmp_path / "rm").mkdir()
    spec = load(tmp_path).spec
    models = dataclasses.replace(
        spec.models, reward_trained=dataclasses.replace(_folder(), path=str(tmp_path / "rm"))
    )
    nodes = build_graph(dataclasses.replace(spec, models=models))
    assert [n.name for n in nodes] == ["data", "sft", "ppo.1", "evaluate", "export"]
    ppo = next(n for n in nodes if n.kind == "ppo")
    assert str(tmp_path / "rm") in ppo.files
    assert "reward" not in ppo.inputs


def _folder():
    from toolkit.spec.schema import ModelFolder

    return ModelFolder()


@pytest.mark.parametrize(
    ("override", "gone"),
    [("sft=null", "sft"), ("ppo=null", "ppo.1"), ("evaluate=null", "evaluate")],
)
def test_a_section_that_is_null_has_no_stage(tmp_path, override, gone):
    extra = ["evaluate=null", "export=null"] if override == "ppo=null" else []
    names = [n.name for n in build_graph(load(tmp_path, [override, *extra]).spec)]
    assert gone not in names


def test_until_takes_a_name_or_a_kind(tmp_path):
    nodes = build_graph(load(tmp_path).spec)
    assert [n.name for n in select(nodes, "reward")] == STAGES[:5]
    assert select(nodes, "reward.1") == select(nodes, "reward")
    with pytest.raises(ValueError, match=r"no stage 'rewards'; its stages are data, sft"):
        select(nodes, "rewards")


@pytest.mark.parametrize("learner", ["dpo", "kto"])
def test_a_learner_from_rankings_reads_labels_and_a_reward_model_only_judges(tmp_path, learner):
    one = ["ppo=null", f"{learner}={{}}"]
    nodes = {n.kind: n for n in build_graph(load(tmp_path, one).spec)}
    assert nodes[learner].inputs == {"data": "data", "sft": "sft", "label": "label.1"}
    assert nodes["evaluate"].inputs["learner"] == nodes["export"].inputs["learner"]
    assert nodes["evaluate"].inputs["learner"] == f"{learner}.1"
    assert "reward" in nodes
    bare = [*one, "evaluate.win_rate=[oracle]", "reward.gate=null"]
    assert "reward" not in {n.kind for n in build_graph(load(tmp_path, bare).spec)}
    for asks in ("reward.gate={}", "sft.select=reward"):
        assert "reward" in {n.kind for n in build_graph(load(tmp_path, [*bare, asks]).spec)}


def test_a_finished_reward_model_still_lets_dpo_collect_rankings(tmp_path):
    make_stub_model(tmp_path / "rm")
    trained = f"models.reward_trained={{path: {tmp_path / 'rm'}}}"
    spec = load(tmp_path, ["ppo=null", "dpo={}", "reward.gate=null", trained]).spec
    kinds = [n.kind for n in build_graph(spec)]
    assert kinds == ["data", "sft", "collect", "label", "dpo", "evaluate", "export"]


def test_data_files_and_plug_ins_are_named():
    data = Data(demonstrations=DataFile(path="d.jsonl"), prompts=DataFile(path="p.jsonl"))
    spec = Spec(data=data, ppo=Ppo())
    nodes = {n.kind: n for n in build_graph(spec)}
    assert nodes["data"].files == ("d.jsonl", "p.jsonl")


def test_people_change_the_label_stage_by_their_file_and_nothing_else(tmp_path):
    (tmp_path / "ranked.jsonl").write_text("{}")
    by = f"label={{by: people, file: {tmp_path / 'ranked.jsonl'}}}"
    nodes = {n.name: n for n in build_graph(load(tmp_path, [by]).spec)}
    assert {name for name, n in nodes.items() if n.files} == {"label.1"}
    spec = load(tmp_path).spec
    label = next(n for n in build_graph(spec) if n.name == "label.1")
    assert "label.file" not in spec_slice(spec, label.paths, label.ignored)


@pytest.mark.parametrize("learner", LEARNERS)
def test_every_spec_key_reaches_a_key_or_is_known_not_to(tmp_path, learner):
    """A key that no slice holds would change results without running anything."""
    others = [name for name in LEARNERS if name != learner]
    extra = [] if learner == "ppo" else ["ppo=null", f"{learner}={{}}"]
    spec = load(tmp_path, ["pretrain={}", "label.labelers={}", "folds={}", *extra]).spec
    covered = set()
    for node in build_graph(spec):
        covered |= set(spec_slice(spec, node.paths))
    every = set()
    for field in dataclasses.fields(spec):
        every |= set(flatten(getattr(spec, field.name), field.name))
    left = {path.split(".")[0] for path in every - covered}
    # hardware and seed are parts of their own; reward.gate judges only; rounds adds stages.
    assert left == {
        "schema", "extends", "out", "share", "rounds", "checkpoint", "log", "hardware", "seed",
        "reward",
        *others,
    }  # fmt: skip
    assert {p for p in every - covered if p.startswith("reward")} == {"reward.gate.accuracy"}

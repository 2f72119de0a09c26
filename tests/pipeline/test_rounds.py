"""Rounds, the separate start and the selection in the graph, and why their stages run."""

from __future__ import annotations

import pytest

from tests.pipeline.fakes import load
from tests.stub_model import make_stub_model
from toolkit.pipeline.graph import build_graph
from toolkit.pipeline.plan import make_plan
from toolkit.pipeline.runner import run

MIXED = "collect.sources={sft: 1.0, ppo: 1.0}"
INIT = "ppo.init={pretrain_mix: 0.1, length: 32}"


def graph(tmp_path, *overrides):
    return {n.name: n for n in build_graph(load(tmp_path, overrides).spec)}


def test_rounds_repeat_collect_to_ppo_and_select_follows_the_first_reward_model(tmp_path):
    names = list(graph(tmp_path, "rounds=3", "sft.select=reward", INIT))
    rounds = [[f"{kind}.{n}" for kind in ("collect", "label", "reward", "ppo")] for n in (1, 2, 3)]
    first = [*rounds[0][:3], "select", rounds[0][3]]
    assert names == ["data", "sft", "init", *first, *rounds[1], *rounds[2], "evaluate", "export"]


def test_later_rounds_collect_from_the_policy_and_add_to_the_labels(tmp_path):
    nodes = graph(tmp_path, "rounds=2", MIXED)
    assert nodes["collect.1"].inputs == {"data": "data", "sft": "sft"}
    assert nodes["collect.2"].inputs["learner"] == "ppo.1"
    assert nodes["label.2"].inputs == {"data": "data", "collect": "collect.2", "label": "label.1"}
    assert nodes["reward.2"].inputs == {"data": "data", "sft": "sft", "label": "label.2"}
    assert nodes["ppo.2"].inputs["reward"] == "reward.2"
    assert nodes["evaluate"].inputs["learner"] == nodes["export"].inputs["learner"] == "ppo.2"
    every = {"learner.1": "ppo.1", "learner.2": "ppo.2", "reward.1": "reward.1"}
    assert every.items() <= nodes["evaluate"].inputs.items()


@pytest.mark.parametrize("learner", ["dpo", "kto"])
@pytest.mark.parametrize(
    ("asks", "trained"),
    [
        ([], ["reward.3"]),
        (["evaluate.win_rate=[oracle]"], ["reward.3"]),
        (["evaluate.win_rate=[oracle]", "reward.gate=null"], []),
        (["evaluate.win_rate=[oracle]", "reward.gate=null", "sft.select=reward"], ["reward.1"]),
        (["sft.select=reward"], ["reward.1", "reward.3"]),
    ],
)
def test_a_learner_from_rankings_trains_only_the_reward_models_that_something_reads(
    tmp_path, learner, asks, trained
):
    nodes = graph(tmp_path, "rounds=3", "ppo=null", f"{learner}={{}}", *asks)
    assert [name for name in nodes if name.startswith("reward.")] == trained
    assert [name for name in nodes if name.startswith("label.")] == [
        f"label.{n}" for n in (1, 2, 3)
    ]
    judge = nodes["evaluate"].inputs.get("reward")
    assert judge == (trained[-1] if trained else None)
    assert {k for k in nodes["evaluate"].inputs if k.startswith("reward.")} == set(trained)
    if "sft.select=reward" in asks:
        assert nodes["select"].inputs["reward"] == "reward.1"


def test_a_second_round_of_dpo_reuses_the_first_and_judges_once(tmp_path, stages):
    one = ["ppo=null", "dpo={}"]
    run(load(tmp_path, one))
    fate = actions(load(tmp_path, [*one, "rounds=2"]))
    assert "reward.1" not in fate
    assert fate["label.1"] == fate["dpo.1"] == "cached"
    assert fate["reward.2"] == fate["evaluate"] == "runs"


def test_without_a_share_of_the_policy_a_later_collect_does_not_wait_for_it(tmp_path):
    assert "learner" not in graph(tmp_path, "rounds=2")["collect.2"].inputs


@pytest.mark.parametrize(("restart", "reads"), [("init", None), ("previous", "ppo.1")])
def test_the_policy_of_a_later_round_starts_where_restart_says(tmp_path, restart, reads):
    nodes = graph(tmp_path, "rounds=2", INIT, f"ppo.restart={restart}")
    assert nodes["ppo.2"].inputs.get("learner") == reads
    assert "learner" not in nodes["ppo.1"].inputs
    assert nodes["ppo.1"].inputs["init"] == nodes["ppo.2"].inputs["init"] == "init"


@pytest.mark.parametrize("init", ["sft", "null"])
def test_the_policy_starts_from_sft_where_init_says_so(tmp_path, init):
    nodes = graph(tmp_path, INIT, f"ppo.init={init}")
    assert "init" not in nodes
    assert "init" not in nodes["ppo.1"].inputs


def test_the_selected_epoch_is_the_sft_model_of_all_later_stages(tmp_path):
    nodes = graph(tmp_path, "rounds=2", "sft.select=reward")
    before = {name for name, n in nodes.items() if n.inputs.get("sft") == "sft"}
    after = {name for name, n in nodes.items() if n.inputs.get("sft") == "select"}
    assert before == {"collect.1", "reward.1", "select"}
    assert after == {"ppo.1", "collect.2", "reward.2", "ppo.2", "evaluate", "export"}


def test_a_finished_reward_model_selects_too(tmp_path):
    make_stub_model(tmp_path / "rm")
    folder = f"models.reward_trained={{path: {tmp_path / 'rm'}}}"
    nodes = graph(tmp_path, "sft.select=reward", folder, "reward.gate=null")
    assert list(nodes) == ["data", "sft", "select", "ppo.1", "evaluate", "export"]
    assert nodes["select"].files == (str(tmp_path / "rm"),)


def actions(loaded):
    return {s.decision.node.name: s.decision.action for s in make_plan(loaded).stages}


def test_a_second_round_reuses_the_first(tmp_path, stages):
    run(load(tmp_path))
    wider = ["rounds=2", "collect.sources={sft: 1.0, ppo: 0.5}", "ppo.restart=previous"]
    fate = actions(load(tmp_path, wider))
    assert {n for n, action in fate.items() if action == "cached"} == {
        "data", "sft", "collect.1", "label.1", "reward.1", "ppo.1",
    }  # fmt: skip
    run(load(tmp_path, wider))
    assert set(actions(load(tmp_path, wider)).values()) == {"cached"}
    back = {s.decision.node.name: s.decision for s in make_plan(load(tmp_path, wider[:2])).stages}
    why = back["ppo.2"].why
    assert why == "ppo.restart previous -> init; learner is no longer read"
    assert back["evaluate"].why == "because ppo.2 runs"
    assert back["ppo.1"].action == "cached"


def test_a_changed_number_of_prompts_to_select_on_runs_the_selection_only(tmp_path, stages):
    run(load(tmp_path, ["sft.select=reward"]))
    fate = actions(load(tmp_path, ["sft.select=reward", "sft.select_prompts=8"]))
    assert fate["sft"] == fate["reward.1"] == "cached"
    assert fate["select"] == fate["ppo.1"] == "runs"


def test_plan_says_what_is_not_new_in_later_rounds(tmp_path):
    prompts = "data.task.prompts=100"
    notes = "\n".join(make_plan(load(tmp_path, ["rounds=3", prompts, "collect.prompts=40"])).notes)
    assert "collect.sources has no ppo" in notes
    assert "collect.3: 20 of its 40 prompts were answered in an earlier round" in notes
    assert "collect.2:" not in notes
    notes = "\n".join(make_plan(load(tmp_path, ["rounds=2", prompts, MIXED])).notes)
    assert "collect.1: there is no PPO policy yet, so the sources are sft 1.00" in notes
    assert "collect.2: 100 of its 100 prompts" in notes


def test_labels_of_later_rounds_add_up_in_the_plan(tmp_path):
    plan = make_plan(load(tmp_path, ["rounds=2", MIXED, "collect.prompts=40"]))
    work = {s.decision.node.name: s.work for s in plan.stages}
    assert (work["label.1"], work["label.2"]) == ("40 prompts", "80 prompts")
    steps = {s.decision.node.name: s.steps for s in plan.stages}
    assert (steps["reward.1"], steps["reward.2"]) == (3, 5)

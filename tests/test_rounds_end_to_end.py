"""Two rounds with the separate start and the selection, on a tiny spec: what is new, what stays."""

import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from tests.end_to_end import SPEC, done, run_tiny
from toolkit.models.heads import Scorer
from toolkit.pipeline.work import init_steps
from toolkit.report.load import load_run
from toolkit.report.page import render_page
from toolkit.report.rounds import selection_rows
from toolkit.report.summary import summarize
from toolkit.report.table import print_report
from toolkit.spec.load import load_spec
from toolkit.stages import StageContext
from toolkit.stages.elements import by_source
from toolkit.stages.own_answers import own_accuracy
from toolkit.stages.ppo import PPO
from toolkit.stages.select import Select

TWO = (
    "rounds=2",
    "pretrain.steps=8",
    "data.task.demonstrations=128",
    "data.task.prompts=80",
    "sft={epochs: 3, batch: 32, select: reward}",
    "collect={prompts: 32, k: [3, 4], batch: 32, sources: {sft: 1.0, ppo: 1.0}}",
    "reward.epochs=1",
    "ppo.episodes=64",
    "ppo.init={sft_epochs: 2, pretrain_mix: 0.25, length: 16, batch: 8, lr: 1e-3}",
    "evaluate={prompts: 16, perplexity_tokens: 0}",
    "export=null",
)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "two"
    run_tiny(folder, *TWO)
    return folder


def records(out, stage, file):
    return [json.loads(line) for line in (out / "stages" / stage / file).read_text().splitlines()]


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_later_rounds_ask_fresh_prompts_and_rank_the_policy_as_well(out):
    first, second = (records(out, f"collect.{r}", "samples.jsonl") for r in (1, 2))
    count = len({r["prompt"] for r in first} & {r["prompt"] for r in second})
    repeated = len({r["prompt"] for r in records(out, "data", "prompts.train.jsonl")})
    assert count <= 80 - repeated  # the task may draw a prompt twice
    assert {s for r in first for s in r["source"]} == {"sft"}
    assert {s for r in second for s in r["source"]} == {"sft", "ppo"}


def test_the_second_round_ranks_all_comparisons_so_far(out):
    first, both = (records(out, f"label.{r}", "rankings.jsonl") for r in (1, 2))
    assert both[: len(first)] == first
    assert [r["round"] for r in both] == [1] * 32 + [2] * 32


def test_held_out_prompts_stay_held_out_in_later_rounds(out):
    first, second = (records(out, f"reward.{r}", "rankings.valid.jsonl") for r in (1, 2))
    assert {r["prompt"] for r in first} <= {r["prompt"] for r in second}
    assert all(r in second for r in first)


def test_the_start_has_its_mixture_in_every_step(out):
    init = load_spec(SPEC, TWO).spec.ppo.init
    metrics = records(out, "init", "metrics.jsonl")
    assert len(metrics) == done(out, "init")["summary"]["steps"] == init_steps(init, 128) == 44
    assert [m["pretrain/examples"] for m in metrics] == [2.0] * 44
    assert {m["demonstrations/examples"] for m in metrics} == {6.0, 2.0}
    for m in metrics:
        text, demonstrations = m["pretrain/examples"], m["demonstrations/examples"]
        sums = text * m["pretrain/loss"] + demonstrations * m["demonstrations/loss"]
        assert m["loss"] == pytest.approx(sums / (text + demonstrations), rel=1e-6)
    assert metrics[-1]["pretrain/loss"] < metrics[0]["pretrain/loss"]


def test_the_selected_epoch_is_the_best_by_the_reward_model(out):
    result = json.loads((out / "stages/select/select.json").read_text())
    scores = {e["epoch"]: e["score"] for e in result["epochs"]}
    assert list(scores) == [1, 2, 3]
    assert len(set(scores.values())) == 3
    assert result["chosen"] == max(scores, key=scores.get)
    losses = [m["valid_loss"] for m in records(out, "sft", "metrics.jsonl") if "valid_loss" in m]
    assert [e["valid_loss"] for e in result["epochs"]] == losses
    sft, epoch = out / "stages" / "sft", result["chosen"]
    folder = sft / ("model" if epoch == 3 else f"epochs/{epoch}")
    assert weights(out / "stages/select/model") == weights(folder)
    assert len({weights(f) for f in (sft / "model", sft / "epochs/1", sft / "epochs/2")}) == 3


def test_equal_scores_select_the_earlier_epoch(out, tmp_path):
    stages = out / "stages"
    inputs = {"data": stages / "data", "sft": stages / "sft", "reward": stages / "reward.1"}
    spec = load_spec(SPEC, TWO).spec
    stage = Select(
        StageContext(spec=spec, name="select", kind="select", round=0, work=tmp_path, inputs=inputs)
    )
    stage.setup()
    stage.scores = [0.5, 0.7, 0.7]
    assert stage.finish().summary["chosen"] == 2


def context(out, number, work, *overrides):
    """A PPO stage's context with the inputs that the graph names."""
    from toolkit.pipeline.graph import build_graph

    spec = load_spec(SPEC, [*TWO, *overrides]).spec
    node = next(n for n in build_graph(spec) if n.name == f"ppo.{number}")
    inputs = {key: out / "stages" / name for key, name in node.inputs.items()}
    return StageContext(
        spec=spec, name=node.name, kind="ppo", round=number, work=work, inputs=inputs
    )


@pytest.mark.parametrize("restart", ["init", "previous"])
@pytest.mark.parametrize("number", [1, 2])
def test_the_reference_is_init_in_every_round(out, tmp_path, number, restart):
    stage = PPO(context(out, number, tmp_path, f"ppo.restart={restart}"))
    stage.setup()
    both = (stage.models.reference, stage.models.policy)
    reference, policy = (dict(m.model.named_parameters()) for m in both)
    from safetensors.torch import load_file

    start = load_file(out / "stages/init/model/model.safetensors")
    previous = load_file(out / "stages/ppo.1/policy/model.safetensors")
    assert all(torch.equal(reference[name], value) for name, value in start.items())
    goes_on = number == 2 and restart == "previous"
    expected = previous if goes_on else start
    assert all(torch.equal(policy[name], value) for name, value in expected.items())


def test_a_policy_that_goes_on_starts_away_from_the_reference(out):
    outcome = run_tiny(out, *TWO, "ppo.restart=previous")
    fate = {d.node.name: d.action for d in outcome.decisions}
    assert {name for name, action in fate.items() if action == "runs"} == {"ppo.2", "evaluate"}
    first, second = (records(out, f"ppo.{r}", "metrics.jsonl") for r in (1, 2))
    assert first[0]["objective/kl"] == pytest.approx(0.0, abs=1e-5)
    assert second[0]["objective/kl"] > 1e-3
    assert set(done(out, "ppo.1")["summary"]["audit"]) == {"max_ratio_error", "max_abs_kl"}
    assert set(done(out, "ppo.2")["summary"]["audit"]) == {"max_ratio_error"}


def test_evaluate_measures_kl_to_the_start_of_the_policy(out):
    models = json.loads((out / "stages/evaluate/evaluation.json").read_text())["models"]
    assert models["init"]["kl"] == pytest.approx(0.0, abs=1e-5)
    assert abs(models["sft"]["kl"]) > 1e-2


def test_accuracy_is_told_by_round_and_by_source(out):
    accuracy = json.loads((out / "stages/reward.2/accuracy.json").read_text())
    assert sum(p["pairs"] for p in accuracy["by_round"].values()) == accuracy["valid"]["pairs"]
    assert set(accuracy["by_round"]) == {"1", "2"}


def test_pairs_of_one_source_are_those_between_its_answers():
    record = {"source": ["sft", "ppo", "sft", "ppo", "base"], "ranks": [1, 2, 3, 4, 5]}
    given = {"ranks": [1, 2]}
    scores = [torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]), torch.tensor([1.0, 2.0])]
    found = by_source([record, given], scores)
    assert {name: part[0]["ranks"] for name, (part, _) in found.items()} == {
        "ppo": [2, 4],
        "sft": [1, 3],
    }
    assert torch.equal(found["sft"][1][0], torch.tensor([0.1, 0.3]))


def test_each_reward_model_is_tried_on_the_final_policy_s_own_answers(out):
    result = json.loads((out / "stages/evaluate/evaluation.json").read_text())["own_answers"]
    assert result["prompts"] == 16
    assert 0 < result["pairs"] <= 16 * 6
    assert set(result["accuracy"]) == {"reward.1", "reward.2"}
    assert all(0.0 <= share <= 1.0 for share in result["accuracy"].values())


@pytest.mark.parametrize(("sign", "expected"), [(1.0, 1.0), (-1.0, 0.0)])
def test_a_reward_model_that_agrees_with_the_oracle_is_right(
    out, tmp_path, monkeypatch, sign, expected
):
    ctx = replace(context(out, 2, tmp_path, "ppo.restart=init"), kind="evaluate")
    stage = PPO(ctx)
    stage.setup()
    prompts = records(out, "data", "prompts.valid.jsonl")[:4]
    monkeypatch.setattr(Scorer, "scores", lambda self, batch: sign * batch.lengths.float())
    length = len(prompts[0]["prompt_ids"])
    assert all(len(p["prompt_ids"]) == length for p in prompts)

    def oracle(prompts, responses, finished):
        return [float(len(r) + done) for r, done in zip(responses, finished, strict=True)]

    found = own_accuracy(ctx, stage.text, stage.models.policy, prompts, oracle)
    assert found["pairs"] > 0
    assert found["accuracy"] == {"reward": expected}


def test_the_report_shows_the_rounds_and_the_selected_epoch(out):
    report = summarize(out)
    assert [r["round"] for r in report["rounds"]] == [1, 2]
    assert [r["prompts"] for r in report["rounds"]] == [32, 64]
    last = records(out, "ppo.2", "metrics.jsonl")[-1]
    assert report["rounds"][1]["oracle"] == last["objective/oracle"]
    assert report["rounds"][0]["own_accuracy"] is not None
    chosen = [row[0] for row in selection_rows(report["selection"]) if row[-1] == "chosen"]
    assert chosen == [str(report["selection"]["chosen"])]
    page = render_page(report, load_run(out))
    assert "Which epoch is the SFT model" in page
    assert "<h2>Rounds</h2>" in page
    shown = io.StringIO()
    print_report(report, Console(file=shown, width=200))
    assert "final policy's answers" in shown.getvalue()


def test_one_round_first_and_two_later_reuse_the_first(out, tmp_path):
    one = [o for o in TWO if not o.startswith("rounds")]
    names = {d.node.name: d.action for d in run_tiny(out, *one, until="ppo").decisions}
    assert set(names.values()) == {"cached"}


def test_the_adaptive_coefficient_follows_the_kl_and_survives_a_restart(out, tmp_path):
    adaptive = "ppo.kl={coef: 0.3, controller: adaptive, target: 0.5, horizon: 320}"
    (tmp_path / "work").mkdir()
    stage = PPO(context(out, 1, tmp_path / "work", adaptive))
    stage.setup()
    first, second = stage.step(0), stage.step(1)
    assert first["objective/kl_coef"] == 0.3
    assert first["objective/kl"] == pytest.approx(0.0, abs=1e-5)  # an error of -1, cut to -0.2
    assert second["objective/kl_coef"] == pytest.approx(0.3 * (1 - 0.2 * 32 / 320), rel=1e-9)
    again = PPO(replace(stage.ctx))
    again.setup()
    again.restore(stage.state())
    assert again.kl.now == stage.kl.now
    assert again.kl.now.coef != 0.3

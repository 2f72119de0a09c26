"""The whole pipeline on a tiny spec: it runs, reuses, and redoes only what a change asks for."""

import json

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from tests.end_to_end import SPEC, STAGES, done, run_tiny, weights
from toolkit.data.batches import collate
from toolkit.data.tokenize import load_text
from toolkit.models.heads import Scorer
from toolkit.models.load import load_scalar
from toolkit.pipeline.work import ppo_optimizer_steps, sft_steps
from toolkit.spec.load import load_spec
from toolkit.spec.schema import Hardware


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    run_tiny(folder)
    return folder


def test_every_stage_leaves_its_results(out):
    assert {p.name for p in (out / "stages").iterdir() if p.name[0] != "."} == set(STAGES)
    assert all((out / "stages" / stage / "done.json").exists() for stage in STAGES)
    assert not list((out / "stages").glob("*/checkpoint"))


def test_optimizer_steps_equal_the_plan(out):
    spec = load_spec(SPEC, []).spec
    summary = done(out, "ppo.1")["summary"]
    assert ppo_optimizer_steps(spec.ppo) == 6 * 2 * 2
    assert summary["optimizer_steps"] == summary["value_optimizer_steps"] == 24
    sft = done(out, "sft")["summary"]
    assert sft["steps"] == sft_steps(spec.sft, sft["demonstrations"]) == 128


def test_the_first_minibatch_has_ratio_one_and_no_kl(out):
    audit = done(out, "ppo.1")["summary"]["audit"]
    assert audit["max_ratio_error"] <= 1e-5
    assert audit["max_abs_kl"] <= 1e-5


def test_the_evaluation_says_what_the_report_needs(out):
    result = json.loads((out / "stages/evaluate/evaluation.json").read_text())
    assert set(result["models"]) == {"sft", "ppo_ema", "ppo_last"}
    for figures in result["models"].values():
        assert {"oracle", "exact", "reward", "kl", "length", "perplexity"} <= set(figures)
    assert set(result["judges"]) == {"oracle", "reward"}
    assert result["models"]["sft"]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert 0.0 <= result["reward_accuracy"] <= 1.0


def test_exported_folders_load_with_plain_transformers(out):
    folder = out / "stages" / "export"
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    policy = AutoModelForCausalLM.from_pretrained(folder / "policy")
    ids = tokenizer("dbaec>", return_tensors="pt").input_ids
    assert policy(ids).logits.shape == (1, 6, len(tokenizer))
    text = load_text(folder / "policy")
    batch = collate([ids[0].tolist()], [[0, 1, 2]], tokenizer.pad_token_id)
    for name in ("reward", "value"):
        model = AutoModelForSequenceClassification.from_pretrained(folder / name).eval()
        ours = Scorer(load_scalar(folder / name, text), Hardware()).scores(batch).item()
        theirs = model(batch.ids).logits.item() - model.config.score_offset
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_demonstrations_average_zero_after_centring(out):
    folder = out / "stages"
    model = AutoModelForSequenceClassification.from_pretrained(folder / "reward.1" / "model").eval()
    lines = (folder / "data" / "demonstrations.train.jsonl").read_text().splitlines()
    scores = []
    for record in map(json.loads, lines):
        ids = torch.tensor([record["prompt_ids"] + record["response_ids"]])
        scores.append(model(ids).logits.item() - model.config.score_offset)
    assert sum(scores) / len(scores) == pytest.approx(0.0, abs=1e-4)


def test_a_second_run_reuses_every_stage(out):
    before = {path: path.stat().st_mtime_ns for path in out.glob("stages/*/done.json")}
    outcome = run_tiny(out)
    assert {d.action for d in outcome.decisions} == {"cached"}
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("stages/*/done.json")}


def test_a_changed_kl_redoes_ppo_only_and_says_why(out):
    first = weights(out)
    outcome = run_tiny(out, "ppo.kl.coef=0.05")
    fate = {d.node.name: d for d in outcome.decisions}
    redone = {name for name, decision in fate.items() if decision.action == "runs"}
    assert redone == {"ppo.1", "evaluate", "export"}
    assert "ppo.kl.coef 0.3 -> 0.05" in fate["ppo.1"].why
    assert first["ppo.1/policy/model.safetensors"] != weights(out)["ppo.1/policy/model.safetensors"]
    back = {d.node.name: d.action for d in run_tiny(out).decisions}
    assert back["ppo.1"] == "reused"
    assert weights(out) == first


def test_a_gate_stops_the_run_with_its_exit_code(out):
    from toolkit.spec.errors import GateFailed

    with pytest.raises(GateFailed, match=r"reward\.gate\.accuracy") as caught:
        run_tiny(out, "reward.gate.accuracy=0.999")
    assert caught.value.exit_code == 5

"""What all start from, and the examiner."""

import json
from dataclasses import asdict

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2Config

from specs.compare import evaluate, our_stages, plain_ppo, runs, tasks
from specs.compare.measure import Measure, read_lines
from specs.compare.rows import SETTINGS

SHAPE = {"vocab": 40, "prompt": 6}
MODEL = {"n_layer": 1, "n_embd": 64, "n_head": 2, "n_positions": 16}


@pytest.fixture
def fixed(tmp_path, root):
    """A task for speed, small, with its folders made and our data stage run."""
    base, reward, prompts = (str(tmp_path / n) for n in ("base", "reward", "prompts.jsonl"))
    job = {
        "spec_file": str(root / "specs" / "compare" / "v4096.yaml"),
        "models": {"base": base, "sft": base, "reward": reward},
        "prompts": prompts,
        "data": str(tmp_path / "data"),
        "stages": str(tmp_path / "run" / "stages"),
        "seed": 1,
        "precision": "fp32",
        "overrides": [
            f"models.base.path={base}", f"models.reward_trained.path={reward}",
            f"text.tokenizer={base}", f"data.prompts.path={prompts}", f"out={tmp_path}/run",
            "text.max_prompt=6", "text.max_response=5", "ppo.episodes=16", "ppo.batch=8",
            "ppo.minibatch=8", "hardware.threads=2",
        ],
    }  # fmt: skip
    tasks.prepare_fixed({**job, **SHAPE, "model": MODEL}, Measure())
    our_stages.run_stage({**job, "stage": "data"}, Measure())
    our_stages.export_data(job, Measure())
    return job


@pytest.mark.parametrize("task", runs.LARGE)
def test_a_large_task_has_the_parameters_of_its_name(task):
    config = GPT2Config(vocab_size=runs.FIXED[task]["vocab"] + 1, **runs.FIXED[task]["model"])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(
        {"v125m": 125, "v1300m": 1300}[task], rel=0.02
    )


def test_a_large_task_draws_its_weights_by_its_seed(tmp_path):
    text = tasks.make_words(40)
    source = tasks.ModelSource(architecture="gpt2", config=MODEL)
    one, same, other = (tasks.make_where_used(source, text, seed, "cpu") for seed in (1, 1, 2))
    weights = [model.transformer.h[0].mlp.c_fc.weight for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_no_answer_of_a_task_for_speed_ends_early(fixed):
    model = AutoModelForCausalLM.from_pretrained(fixed["models"]["base"]).eval()
    logits = model(torch.arange(12).reshape(2, 6)).logits
    torch.testing.assert_close(logits[..., 39:], torch.full((2, 6, 2), -40.0), rtol=0, atol=1e-4)
    assert float(logits[..., :39].detach().abs().max()) < 10


def test_ours_and_the_plain_loop_run_the_same_task_for_speed(fixed, tmp_path):
    spec = our_stages.load_spec(fixed["spec_file"], fixed["overrides"]).spec
    told = {}
    for name, run in {"ours": our_stages.run_stage, "plain": plain_ppo.ppo}.items():
        measure = Measure()
        mine = {**fixed, "stage": "ppo", "out": str(tmp_path / name), "spec": asdict(spec)}
        told[name] = run(mine, measure)
        assert len(measure.steps) == 2
    same = set(SETTINGS["ppo"]) - {"rollout"}
    assert {k: told["ours"][k] for k in same} == {k: told["plain"][k] for k in same}
    assert [len(r["prompt_ids"]) for r in read_lines(f"{fixed['data']}/prompts.jsonl")][:3] == [
        6
    ] * 3


def test_in_a_large_task_nobody_writes_his_models(fixed, tmp_path, monkeypatch):
    monkeypatch.setattr(our_stages.toolkit.stages.ppo, "save_model", None)  # put back afterwards
    spec = our_stages.load_spec(fixed["spec_file"], fixed["overrides"]).spec
    for name, run in {"ours": our_stages.run_stage, "plain": plain_ppo.ppo}.items():
        mine = {**fixed, "stage": "ppo", "out": str(tmp_path / name), "spec": asdict(spec)}
        run({**mine, "large": True, "precision": "bf16"}, Measure())
        assert not list(tmp_path.glob(f"{name}/**/*.safetensors"))
    assert not list((tmp_path / "run" / "stages" / "ppo.1").glob("**/*.safetensors"))


def test_the_folder_all_start_from_says_nothing_of_sampling(job):
    with open(f"{job['models']['base']}/generation_config.json") as file:
        assert "suppress_tokens" not in json.load(file)


def test_the_folder_all_start_from_has_no_dropout(job):
    model = AutoModelForCausalLM.from_pretrained(job["models"]["base"])
    shares = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    assert len(shares) > 3
    assert set(shares) == {0.0}


def test_the_examiner_finds_no_kl_between_a_model_and_itself(job):
    base = job["models"]["base"]
    examiner = evaluate.Examiner(job)
    figures = examiner.examine(base, evaluate.load_policy(base))
    assert figures["kl"] == 0.0
    assert 0.0 <= figures["exact"] <= figures["oracle"] <= 1.0


def test_the_examiner_counts_pairs_of_different_rank(job, tmp_path):
    base = AutoModelForSequenceClassification.from_pretrained(job["models"]["base"], num_labels=1)
    base.save_pretrained(tmp_path / "scorer")
    rankings = read_lines(f"{job['data']}/rankings.valid.jsonl")
    examiner = evaluate.Examiner(job)
    share = examiner.accuracy(str(tmp_path / "scorer"), rankings)
    turned = [{**r, "ranks": [{1: 2, 2: 1}[rank] for rank in r["ranks"]]} for r in rankings]
    assert share + examiner.accuracy(str(tmp_path / "scorer"), turned) == pytest.approx(1.0)


def test_an_answer_ends_with_end_of_text():
    assert evaluate.cut([3, 9, 4, 9], 9) == [3, 9]
    assert evaluate.cut([3, 4], 9) == [3, 4]

"""Runs from files, as a team with labellers has them."""

import json

import pytest

from tests.end_to_end import done, weights
from tests.tiny import tiny_model, tiny_text
from toolkit.__main__ import main
from toolkit.data.tasks import make_task
from toolkit.models.save import save_model
from toolkit.pipeline.runner import run
from toolkit.spec.load import load_spec
from toolkit.spec.schema import Task

SPEC = """
schema: 1
name: files
extends: tiny
models: {{base: {{path: {base}}}}}
text: {{template: "{{prompt}}{{response}}", max_prompt: 8, max_response: 8}}
data:
  demonstrations: {{path: {folder}/demonstrations.jsonl}}
  prompts: {{path: {folder}/prompts.jsonl, fields: {{prompt: question}}}}
  rankings: {{path: {folder}/rankings.jsonl}}
  pretrain: {{path: {folder}/pretrain.txt}}
sft: {{epochs: 1, batch: 16}}
collect: null
label: {{by: file}}
reward: {{batch: 8}}
ppo: {{episodes: 32, batch: 16, minibatch: 16, ptx: {{coef: 1.0, ratio: 1, length: 16}}, ema: null}}
evaluate: {{prompts: 16, weights: last, perplexity_tokens: 256}}
export: {{weights: last}}
"""


def write_lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def rank(prompt):
    """The sorted letters are best, two wrong answers tie."""
    letters = prompt.rstrip(">")
    answers = ["".join(sorted(letters)), letters, letters[::-1]]
    labeler = "ann" if prompt[0] < "e" else "bob"
    return {"prompt": prompt, "responses": answers, "ranks": [1, 2, 2], "labeler": labeler}


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    task = make_task(Task(name="sort", demonstrations=128, prompts=128, pretrain=200))
    text = tiny_text()
    save_model(tiny_model(text), folder / "base", text)
    demonstrations = [e._asdict() for e in task.demonstrations()]
    write_lines(folder / "demonstrations.jsonl", demonstrations)
    write_lines(folder / "prompts.jsonl", [{"question": p} for p in task.prompts()])
    write_lines(folder / "rankings.jsonl", [rank(p) for p in task.prompts()[:96]])
    (folder / "pretrain.txt").write_text("".join("".join(task.pretrain()).split()))
    path = folder / "spec.yaml"
    path.write_text(SPEC.format(base=folder / "base", folder=folder))
    return path


def go(spec, out, *overrides):
    run(load_spec(spec, [f"out={out}", *overrides]))
    return out / "stages"


def test_rankings_from_a_file_train_the_reward_model(spec, tmp_path):
    stages = go(spec, tmp_path / "run")
    records = (stages / "label.1" / "rankings.jsonl").read_text().splitlines()
    assert len(records) == len((stages / "data" / "rankings.jsonl").read_text().splitlines())
    accuracy = json.loads((stages / "reward.1" / "accuracy.json").read_text())
    assert set(accuracy["by_labeler"]) == {"ann", "bob"}
    evaluation = json.loads((stages / "evaluate" / "evaluation.json").read_text())
    assert set(evaluation["judges"]) == {"reward"}
    assert "oracle" not in evaluation["models"]["sft"]


def test_a_finished_reward_model_skips_collect_label_and_reward(spec, tmp_path):
    first = go(spec, tmp_path / "first", "ppo=null", "evaluate=null", "export=null")
    trained = f"models.reward_trained.path={first / 'reward.1' / 'model'}"
    stages = go(spec, tmp_path / "second", trained)
    assert not list(stages.glob("label*"))
    assert not list(stages.glob("reward*"))
    assert done(tmp_path / "second", "ppo.1")["summary"]["optimizer_steps"] == 2


def test_a_reward_model_labels_collected_answers(spec, tmp_path):
    first = go(spec, tmp_path / "first", "ppo=null", "evaluate=null", "export=null")
    stages = go(
        spec,
        tmp_path / "second",
        "collect={prompts: 32, k: 3, batch: 48}",
        f"label={{by: model, model: {{path: {first / 'reward.1' / 'model'}}}}}",
        "data.rankings=null",
        "ppo=null",
        "evaluate=null",
        "export=null",
    )
    record = json.loads((stages / "label.1" / "rankings.jsonl").read_text().splitlines()[0])
    best = max(range(3), key=lambda i: record["scores"][i])
    assert record["ranks"][best] == 1


def test_no_sft_means_the_base_is_the_sft_model(spec, tmp_path):
    stages = go(spec, tmp_path / "run", "sft=null")
    assert not (stages / "sft").exists()
    assert "ppo.1/policy/model.safetensors" in weights(tmp_path / "run")


PEOPLE = ("collect={prompts: 24, k: 3}", "data.rankings=null", "label={by: people}")


def rank_collected(samples, write_to, keep=24):
    """Rank as two people would: the shorter answer is better; the answers in another order."""
    records = [json.loads(line) for line in samples.read_text().splitlines()]
    rankings = []
    for at, record in enumerate(records[:keep]):
        answers = record["responses"][::-1]
        lengths = sorted({len(answer) for answer in answers})
        ranks = [1 + lengths.index(len(answer)) for answer in answers]
        who = {"labeler": ("ann", "bob")[at % 2]}
        rankings.append({"prompt": record["prompt"], "responses": answers, "ranks": ranks} | who)
    write_lines(write_to, rankings)
    return records, rankings


def test_people_rank_collected_answers_while_the_run_waits(spec, tmp_path, capsys):
    out, file = tmp_path / "run", tmp_path / "ranked.jsonl"
    words = [str(spec), f"out={out}", *PEOPLE]
    assert main(["run", *words]) == 6
    error = capsys.readouterr().err
    assert "label.1: waits for labels" in error
    samples = out / "stages/collect.1/samples.jsonl"
    assert (
        f"0 of 24 prompts are ranked; rank on the page of `python -m toolkit label {out}`" in error
    )
    collected, rankings = rank_collected(samples, file, keep=20)

    assert main(["run", *words, f"label.file={file}"]) == 0
    error = capsys.readouterr().err
    assert "collect.1: cached" in error
    assert f"label.1: warning: {file} ranks " in error
    made = [json.loads(x) for x in (out / "stages/label.1/rankings.jsonl").read_text().splitlines()]
    assert [(r["prompt"], r["responses"], r["ranks"], r["labeler"]) for r in made] == [
        (r["prompt"], r["responses"], r["ranks"], r["labeler"]) for r in rankings
    ]
    for record, sample in zip(made, collected, strict=False):
        ids = dict(zip(sample["responses"], sample["responses_ids"], strict=True))
        assert [ids[answer] for answer in record["responses"]] == record["responses_ids"]
        assert set(record["source"]) == {"sft"}
        assert record["round"] == 1
    accuracy = json.loads((out / "stages/reward.1/accuracy.json").read_text())
    assert set(accuracy["by_labeler"]) <= {"ann", "bob"}


def test_rankings_of_what_was_not_collected_are_problems_with_their_lines(spec, tmp_path, capsys):
    out, file = tmp_path / "run", tmp_path / "ranked.jsonl"
    words = [str(spec), f"out={out}", *PEOPLE]
    assert main(["run", *words]) == 6
    _, rankings = rank_collected(out / "stages/collect.1/samples.jsonl", file)
    rankings[0] |= {"prompt": "never asked"}
    rankings[1]["responses"][1] = "never given"
    write_lines(file, rankings)
    assert main(["check", *words, f"label.file={file}"]) == 0
    assert "label.file read 24, kept 24" in " ".join(capsys.readouterr().out.split())
    assert main(["run", *words, f"label.file={file}"]) == 3
    assert capsys.readouterr().err.splitlines()[-2:] == [
        f"{file}:1  prompt  is none of the collected ones; copy it as it is there",
        f"{file}:2  responses.1  is no answer collected for this prompt; copy it as it is there",
    ]
    del rankings[2]["ranks"]
    write_lines(file, rankings)
    missing = f"{file}:3  ranks  is missing; the record has prompt, responses, labeler"
    assert main(["check", *words, f"label.file={file}"]) == 3
    assert capsys.readouterr().err.splitlines()[0] == missing

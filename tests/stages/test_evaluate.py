"""What evaluate compares besides SFT and PPO: the base, the base with a prefix, skills."""

import json
from pathlib import Path

import pytest

from tests.end_to_end import run_tiny
from tests.stages.test_kernels_used import context
from toolkit.data.lines import read_records
from toolkit.data.oracle import load_oracle
from toolkit.data.tasks.base import Cloze
from toolkit.models.heads import Policy
from toolkit.spec.errors import StageFailed
from toolkit.stages import skills
from toolkit.stages.contestants import contestants, few_shot
from toolkit.stages.evaluate import Evaluate
from toolkit.stages.shared import text_of
from toolkit.training.random import Stream

MORE = (
    "data.task.name=null",
    "data.task.fn=tests/golden/skilled.py:make",
    "evaluate.base=true",
    "evaluate.shots=1",
    "evaluate.skills=6",
    "text.max_prompt=6",
)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        run_tiny(folder, *MORE)
    return folder


def test_base_and_prompted_come_before_sft(out):
    result = json.loads((out / "stages/evaluate/evaluation.json").read_text())
    assert list(result["models"]) == ["base", "prompted", "sft", "ppo_ema", "ppo_last"]
    assert {"skill", "skill/one", "skill/two"} <= set(result["models"]["base"])
    assert "skill" not in result["models"]["prompted"]
    assert result["models"]["base"]["kl"] != 0.0


def test_every_prompt_has_a_row_with_every_model(out):
    rows = read_records(out / "stages/evaluate/answers.jsonl")
    assert len({row["prompt"] for row in rows}) == len(rows) == 32
    for row in rows:
        assert set(row["models"]) == {"base", "prompted", "sft", "ppo_ema", "ppo_last"}
        assert {"oracle", "reward", "response"} <= set(row["models"]["base"])
    texts = read_records(out / "stages/evaluate/skills.jsonl")
    assert len(texts) == 6
    assert set(texts[0]["models"]) == {"base", "sft", "ppo_ema", "ppo_last"}


def test_models_draw_the_same_numbers(out, tmp_path):
    """The same weights measured under two names, one after the other, answer alike."""
    stage = context(out / "stages", "evaluate", tmp_path / "work", *MORE)
    evaluate = Evaluate(stage)
    evaluate.setup()
    found = evaluate.contestants
    evaluate.contestants = {
        "sft": found["sft"],
        "base": found["base"],
        "base again": found["base"],
        "ppo_last": found["base"],
        "prompted": found["prompted"],
    }
    for i in range(5):
        evaluate.step(i)
    rows = {name: held["rows"] for name, held in evaluate.measured.items()}
    assert rows["base"] == rows["base again"] == rows["ppo_last"]
    said = {name: [r["response"] for r in own] for name, own in rows.items()}
    assert len({tuple(said[name]) for name in ("sft", "base", "prompted")}) == 3


def test_the_prefix_is_right_demonstrations_with_their_end_of_text(out, tmp_path):
    ctx = context(out / "stages", "evaluate", tmp_path / "work", *MORE)
    text, oracle = text_of(ctx), load_oracle(ctx.spec)
    ids = few_shot(ctx, text, oracle, 1)
    assert ids.count(text.eos_id) == 1
    assert ids[-1] == text.eos_id
    records = read_records(out / "stages/data/demonstrations.train.jsonl")
    own = [r for r in records if [*r["prompt_ids"], *r["response_ids"]] == ids]
    assert oracle([own[0]["prompt"]], [own[0]["response"]], [True]) == [1.0]


def test_a_prefix_beyond_the_positions_is_refused(out, tmp_path):
    ctx = context(out / "stages", "evaluate", tmp_path / "work", *MORE)
    with pytest.raises(StageFailed, match=r"4 demonstrations take .* 32 positions; lower"):
        few_shot(ctx, text_of(ctx), None, 4)


def test_weights_of_the_learner_are_named(out, tmp_path):
    ctx = context(out / "stages", "evaluate", tmp_path / "work", *MORE)
    found = contestants(ctx, text_of(ctx), None)
    assert {name: c.weights for name, c in found.items() if c.weights} == {
        "ppo_ema": "ema",
        "ppo_last": "last",
    }


def test_a_completion_is_right_when_it_begins_with_the_answer(out, tmp_path, monkeypatch):
    ctx = context(out / "stages", "evaluate", tmp_path / "work", *MORE)
    text = text_of(ctx)
    cases = [Cloze("one", "ab", "c"), Cloze("two", "a", "bc"), Cloze("two", "b", "cd")]

    def sample(policy, text, prompts, **_):
        replies = {"ab": "c", "a": "bd", "b": "cd"}
        names = {tuple(text.encode_documents([t])[0][:-1]): r for t, r in replies.items()}
        assert all(p[0] == text.eos_id for p in prompts)
        ids = [text.encode_documents([names[tuple(p[1:])]])[0] for p in prompts]
        return type("Answers", (), {"ids": ids})

    monkeypatch.setattr(skills, "sample_answers", sample)
    policy = Policy.__new__(Policy)
    right = skills.complete(policy, text, cases, Stream(1))
    assert right == [True, False, True]
    assert skills.shares(cases, right) == {"skill": 2 / 3, "skill/one": 1.0, "skill/two": 0.5}


def test_a_task_without_skills_is_refused():
    with pytest.raises(StageFailed, match="the run has no task"):
        skills.clozes(None, 3)
    assert skills.clozes(None, 0) == []

"""`details` prints thirty details with the values of the spec at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.stub_model import make_stub_model
from tests.test_paper import definitions
from toolkit.__main__ import main
from toolkit.spec.details import DETAILS, optimizer_steps, values
from toolkit.spec.details_rankings import details_of
from toolkit.spec.layers import PRESETS
from toolkit.spec.load import examine_spec, load_spec
from toolkit.spec.schema import Spec
from toolkit.spec.vocabulary import find_key

SOUND = "extends: tiny\ndata: {task: {name: sort}}\ntext: {max_prompt: 6}\n"


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(SOUND, encoding="utf-8")
    return "spec.yaml"


def test_there_are_thirty_in_order() -> None:
    assert [detail.number for detail in DETAILS] == list(range(1, 31))
    assert len({detail.text for detail in DETAILS}) == 30


def test_every_key_of_a_detail_is_a_key_of_the_spec() -> None:
    keys = [key for detail in DETAILS for key in detail.keys]
    assert [key for key in keys if find_key(Spec, tuple(key.split("."))) is None] == []


def test_the_values_are_those_of_the_spec(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["ppo.kl.coef=0.07", "ppo.no_eos=null", "ppo.ema=0.5", "ppo.episodes=512"]
    assert main(["details", spec, *overrides, "--json"]) == 0
    found = {row["number"]: row["values"] for row in json.loads(capsys.readouterr().out)}
    assert len(found) == 30
    assert found[18]["ppo.kl.coef"] == "0.07"
    assert found[19] == {"ppo.no_eos.score": "off (ppo.no_eos: null)"}
    assert found[23]["optimizer steps per round"] == "4"
    assert found[20]["share of the start in the average at the end"] == "0.062"  # 0.5 ** 4
    assert found[2] == {"value": "always"}


def test_the_text_names_value_and_place(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["details", spec]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("  21  GAE"))
    assert lines[at + 1 : at + 3] == [
        "      ppo.gamma = 1.0, ppo.lam = 0.95",
        "      at toolkit/stages/experience.py:make_experience",
    ]


def test_a_run_without_ppo_says_so(spec: str) -> None:
    off = load_spec(spec, ["ppo=null"]).spec
    assert optimizer_steps(off) is None
    (detail,) = (d for d in details_of(off) if d.number == 23)
    assert values(detail, off) == [("", "not used: no stage improves the policy (ppo: null)")]


@pytest.mark.parametrize("learner", ["dpo", "kto"])
def test_a_learner_from_rankings_has_details_of_its_own_and_none_of_ppo(
    spec: str, learner: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["details", spec, "ppo=null", f"{learner}={{beta: 0.3, lr: 2e-6}}"]) == 0
    text = capsys.readouterr().out
    assert "PPO" not in text
    assert "ppo" not in text
    assert f"\n{learner.upper()}\n" in text
    assert f"      {learner}.beta = 0.3, {learner}.reference = sft\n" in text
    lines = text.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("  21  GAE"))
    assert lines[at + 1] == f"      not used: {learner} has no such part"
    assert lines[at + 2].startswith("  22  ")  # it acts nowhere


def test_details_of_a_learner_from_rankings_lead_to_keys_and_code(spec: str) -> None:
    own = list(details_of(load_spec(spec, ["ppo=null", "dpo={}"]).spec))
    assert [detail.number for detail in own] == list(range(1, 31))
    keys = [key for detail in own for key in detail.keys]
    assert [key for key in keys if find_key(Spec, tuple(key.split("."))) is None] == []
    places = [place.partition(":") for detail in own for place in detail.where]
    assert [p for p in places if p[2] not in definitions(p[0])] == []


def test_details_say_where_a_reward_model_is_given_or_nobody_needs_one(
    spec: str, tmp_path: Path
) -> None:
    make_stub_model(tmp_path / "rm")
    given = load_spec(spec, [f"models.reward_trained={{path: {tmp_path / 'rm'}}}"]).spec
    said = {d.number: values(d, given) for d in details_of(given)}
    assert said[13] == [("", "not used: the reward model is given (models.reward_trained)")]
    assert said[11] == [("", "always")]
    bare = ["ppo=null", "dpo={}", "evaluate.win_rate=[oracle]", "reward.gate=null"]
    alone = load_spec(spec, bare).spec
    said = {d.number: values(d, alone) for d in details_of(alone)}
    assert said[11] == [("", "not used: dpo learns from rankings, nothing asks for one")]
    judged = load_spec(spec, ["ppo=null", "dpo={}"]).spec
    assert [d for d in details_of(judged) if d.number == 11] == [DETAILS[10]]


def test_details_of_ppo_are_the_thirty(spec: str) -> None:
    assert tuple(details_of(load_spec(spec).spec)) == DETAILS


def test_the_papers_preset_takes_four_thousand_steps() -> None:
    """256,000 episodes / 512 = 500 iterations, times 512 / 64 minibatches."""
    paper = examine_spec(PRESETS / "instructgpt" / "1.3b.yaml").loaded.spec
    assert optimizer_steps(paper) == 4000

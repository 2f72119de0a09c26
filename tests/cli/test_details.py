"""`details` prints thirty details with the values of the spec at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toolkit.__main__ import main
from toolkit.spec.details import DETAILS, optimizer_steps, values
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
    (detail,) = (d for d in DETAILS if d.number == 23)
    assert {value for _, value in values(detail, off)} == {"off (ppo: null)"}


def test_the_papers_preset_takes_four_thousand_steps() -> None:
    """256,000 episodes / 512 = 500 iterations, times 512 / 64 minibatches."""
    paper = examine_spec(PRESETS / "instructgpt" / "1.3b.yaml").loaded.spec
    assert optimizer_steps(paper) == 4000

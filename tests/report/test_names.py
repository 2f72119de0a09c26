"""The report speaks of the learner that ran."""

import pytest

from tests.report.conftest import EVALUATION, SAMPLES, SPEC, RunFolder, write_lines
from toolkit.report.load import load_run
from toolkit.report.names import decisive, in_order, label_of, learner_of
from toolkit.report.page import render_page
from toolkit.report.summary import build_report
from toolkit.report.table import print_report


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("sft", "SFT"),
        ("base", "base"),
        ("dpo_last", "DPO (last)"),
        ("ppo_ema", "DPO (EMA)"),
        ("kto.1", "DPO, round 1"),
        ("other_ema", "other_ema"),
    ],
)
def test_a_model_in_words(model, words):
    assert label_of(model, "DPO") == words


def test_who_decides_and_what_it_is_called():
    models = {"sft": {}, "kto_last": {}}
    assert decisive({"weights": "ema", "models": models}) == "kto_last"
    assert learner_of({"models": models}) == "KTO"
    assert learner_of({"models": {"ppo_ema": {}}, "learner": "A2C"}) == "A2C"
    assert decisive({"weights": "last", "models": {"ppo_ema": {}, "ppo_last": {}}}) == "ppo_last"


def test_what_comes_before_the_learner_stands_first():
    assert in_order(["ppo_ema", "sft", "ppo.1", "base"]) == ["base", "sft", "ppo_ema", "ppo.1"]


@pytest.fixture
def dpo(tmp_path):
    spec = SPEC[: SPEC.index("ppo:")] + "ppo: null\ndpo: {beta: 0.2}\n"
    models = {"sft": EVALUATION["models"]["sft"], "dpo_last": EVALUATION["models"]["ppo_last"]}
    evaluation = EVALUATION | {"models": models, "weights": "last", "learner": "DPO"}
    folder = RunFolder(tmp_path / "dpo", spec).finish_all(evaluation)
    lines = [{"step": i, "loss": 0.7 - i / 100, "accuracy": 0.5, "kl": 0.1} for i in range(9)]
    write_lines(folder.stage("dpo") / "metrics.jsonl", lines)
    renamed = [{k.replace("ppo", "dpo"): v for k, v in record.items()} for record in SAMPLES]
    write_lines(folder.stage("evaluate") / "samples.jsonl", renamed)
    return folder


def test_a_report_of_dpo_never_speaks_of_ppo(dpo, capsys):
    run = load_run(dpo.path)
    report = build_report(run)
    assert report["headline"].startswith("DPO beats SFT on 78 %")
    assert report["metrics"]["dpo.1"]["loss"]["count"] == 9
    print_report(report)
    printed = capsys.readouterr().out
    assert "DPO wins" in printed
    assert "DPO (last) *" in printed
    page = render_page(report, run)
    shown = page[: page.index("Resolved spec")]
    assert "PPO" not in printed + shown
    assert "SFT against DPO" in shown
    assert "Accuracy of the implicit rewards" in shown
    assert "<b>DPO</b>" in shown


def test_forgetting_is_cured_by_a_key_that_the_learner_has(dpo):
    evaluation = dpo.stage("evaluate") / "evaluation.json"
    evaluation.write_text(evaluation.read_text().replace("3.27", "9.9"))
    texts = [w["text"] for w in build_report(load_run(dpo.path))["warnings"]]
    assert any(t.endswith("over DPO; raise dpo.beta, or lower dpo.lr.") for t in texts)

"""A run that is not finished shows what there is and says what is missing."""

from __future__ import annotations

import json
from typing import Any

from toolkit.report.load import load_run
from toolkit.report.summary import summarize
from toolkit.report.write import write_report


def states(run: Any) -> dict[str, str]:
    """Return stage -> state."""
    return {stage.name: stage.state for stage in load_run(run.path).stages}


def test_nothing_has_run(folder: Any) -> None:
    report = write_report(folder.path)
    assert report["headline"] == ("The run is not finished: 0 of 10 stages are done, next is data.")
    assert len(report["missing"]) == 10
    assert report["warnings"] == []
    assert not report["finished"]
    assert "Not there yet" in (folder.path / "report.html").read_text()


def test_stages_follow_the_graph(folder: Any) -> None:
    assert list(states(folder)) == [node.name for node in folder.nodes.values()]


def test_a_run_in_the_middle_of_ppo(folder: Any) -> None:
    for kind in ("data", "pretrain", "sft", "init", "collect", "label", "reward"):
        folder.finish(kind)
    folder.start("ppo", steps=20, total=64)
    report = write_report(folder.path)
    assert report["headline"].endswith("7 of 10 stages are done, next is ppo.1.")
    assert report["missing"][0] == "ppo.1 is at 20 of 64 steps."
    assert report["missing"][1].startswith("evaluate has not run: no comparison")
    assert report["metrics"]["ppo.1"]["objective/kl"]["count"] == 20
    page = (folder.path / "report.html").read_text()
    assert "KL to the reference" in page
    assert "SFT against PPO" not in page
    assert "Answers side by side" not in page


def test_a_run_that_waits_for_people_says_so(folder: Any) -> None:
    path = folder.path / "spec.resolved.yaml"
    path.write_text(path.read_text().replace("by: oracle", "by: people"))
    for kind in ("data", "pretrain", "sft", "init", "collect"):
        folder.finish(kind)
    headline = summarize(folder.path)["headline"]
    assert headline.endswith(
        "5 of 10 stages are done, next is label.1, which waits for people's rankings."
    )


def test_a_failed_stage_says_why(folder: Any) -> None:
    folder.finish("data")
    folder.start("pretrain", steps=4, total=30, failed="the loss is nan")
    assert (
        "pretrain failed after 4 of 30 steps: the loss is nan" in summarize(folder.path)["missing"]
    )


def test_results_of_an_earlier_spec_are_left_out(finished: Any) -> None:
    path = finished.path / "spec.resolved.yaml"
    text = path.read_text()
    assert "coef: 0.07" in text
    path.write_text(text.replace("coef: 0.07", "coef: 0.5"))
    found = states(finished)
    assert found["reward.1"] == "done"
    assert found["ppo.1"] == "outdated"
    assert found["evaluate"] == "outdated"
    report = summarize(finished.path)
    assert report["evaluation"] == {}
    assert "ppo.1" not in report["metrics"]
    assert "next is ppo.1" in report["headline"]


def test_what_is_running_now_replaces_the_outdated_result(finished: Any) -> None:
    path = finished.path / "spec.resolved.yaml"
    path.write_text(path.read_text().replace("coef: 0.07", "coef: 0.5"))
    finished.start("ppo", steps=9, total=64)
    report = summarize(finished.path)
    assert states(finished)["ppo.1"] == "unfinished"
    assert report["metrics"]["ppo.1"]["objective/kl"]["count"] == 9


def test_a_result_that_is_not_the_one_the_run_wants_is_left_out(finished: Any) -> None:
    path = finished.path / "lock.json"
    path.write_text(json.dumps({"keys": {"sft": "key-sft", "reward.1": "of another machine"}}))
    found = states(finished)
    assert found["sft"] == found["label.1"] == "done"
    assert found["reward.1"] == found["ppo.1"] == "outdated"


def test_another_seed_makes_every_result_outdated(finished: Any) -> None:
    path = finished.path / "spec.resolved.yaml"
    path.write_text(path.read_text().replace("\nseed: 7", "\nseed: 8"))
    assert set(states(finished).values()) == {"outdated"}


def test_a_setting_that_the_result_does_not_know_makes_nothing_outdated(finished: Any) -> None:
    path = finished.stage("sft") / "done.json"
    done = json.loads(path.read_text())
    del done["parts"]["spec"]["sft.dropout"]
    path.write_text(json.dumps(done))
    assert states(finished)["sft"] == "done"


def test_a_run_without_ppo_does_not_miss_it(finished: Any) -> None:
    path = finished.path / "spec.resolved.yaml"
    lines = path.read_text().splitlines()
    start = lines.index("ppo:")
    end = next(i for i in range(start + 1, len(lines)) if not lines[i].startswith(" "))
    path.write_text("\n".join([*lines[:start], "ppo: null", *lines[end:]]) + "\n")
    assert "ppo.1" not in states(finished)
    assert not any("ppo" in text for text in summarize(finished.path)["missing"])

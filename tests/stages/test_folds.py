"""Labelers from label to the folds: who trains what, who judges what, and nothing leaks."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest

from tests.end_to_end import SPEC, done, run_tiny
from toolkit.pipeline.counts import Counts
from toolkit.pipeline.work import fold_training_steps, training_rankings
from toolkit.report.summary import summarize as summarize_run
from toolkit.report.table import print_report
from toolkit.spec.errors import StageFailed
from toolkit.spec.load import load_spec
from toolkit.stages.context import StageContext
from toolkit.stages.folds import Folds, make_folds, refuse_empty, summarize
from toolkit.stages.label import Label, ranks_of
from toolkit.stages.reward import Reward
from toolkit.training.loop import configure

PEOPLE = (
    "label.labelers={count: 5, held_out: 1, overlap: 0.2}",
    "folds.count=3",
    "data.split.valid=0.3",
)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    run_tiny(folder, *PEOPLE, until="folds")
    return folder


@pytest.fixture(scope="module")
def rankings(out):
    lines = (out / "stages/label.1/rankings.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def context(out, kind, work):
    names = {"label": "label.1"}
    read = ("data", "pretrain", "sft", "label")
    spec = load_spec(SPEC, PEOPLE).spec
    inputs = {k: out / "stages" / names.get(k, k) for k in read}
    return StageContext(spec=spec, name=kind, kind=kind, round=0, work=work, inputs=inputs)


def test_every_collected_prompt_is_ranked_by_one_labeler_and_some_by_all(out, rankings):
    spec = load_spec(SPEC, PEOPLE).spec
    counts = Counts(prompts=256)
    assert len(rankings) == done(out, "label.1")["summary"]["prompts"]
    training = [r for r in rankings if "labeler_held_out" not in r]
    assert len(training) == pytest.approx(training_rankings(spec, 1, counts), rel=0.2)
    assert {r["labeler"] for r in rankings} == {f"labeler {n}" for n in range(1, 6)}
    assert {r["labeler"] for r in rankings if r.get("labeler_held_out")} == {"labeler 5"}
    assert all(r["ranks"] == ranks_of(r["scores"], ties=True) for r in rankings)
    assert any(r["scores"] != r["oracle"] for r in rankings)
    labels = json.loads((out / "stages/label.1/labels.json").read_text())
    assert sum(labels["labelers"].values()) == len(rankings)
    assert set(labels["agreement"]) == {"all", "training", "between"}
    assert 0.3 < labels["agreement"]["all"]["agreement"] < 0.95


def test_rankings_of_people_have_their_agreement_and_ratings_computed_too(out, tmp_path):
    given, work = tmp_path / "data", tmp_path / "work"
    shutil.copytree(out / "stages/data/tokenizer", given / "tokenizer")
    work.mkdir()
    ids = {"prompt_ids": [0, 8], "responses_ids": [[0, 9], [1, 9]], "finished": [True, True]}
    rows = [
        {"prompt": "a>", "responses": ["a", "b"], "ranks": ranks, "labeler": name, **ids,
         "source": ["sft", "ppo"], "metadata": [{"quality": 3}, {"quality": at}]}
        for at, (name, ranks) in enumerate({"ann": [1, 2], "bob": [1, 2], "cid": [2, 1]}.items(), 4)
    ]  # fmt: skip
    (given / "rankings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ctx = dataclasses.replace(context(out, "label", work), inputs={"data": given}, round=1)
    stage = Label(ctx)
    stage.setup()
    stage.step(0)
    summary = stage.finish().summary
    assert summary["agreement"]["all"]["agreement"] == pytest.approx(1 / 3)
    assert summary["metadata"]["sft"] == {"rated": 3, "quality": 3.0, "flags": {}}
    assert summary["metadata"]["ppo"] == {"rated": 3, "quality": 5.0, "flags": {}}
    kept = [json.loads(line) for line in (work / "rankings.jsonl").read_text().splitlines()]
    assert [row["metadata"] for row in kept] == [row["metadata"] for row in rows]


def test_held_out_labelers_train_no_reward_model_and_judge_it(out, tmp_path):
    stage = Reward(context(out, "reward", tmp_path / "work"))
    configure(stage.ctx)
    stage.setup()
    assert not any(r.get("labeler_held_out") for r in [*stage.train, *stage.valid])
    assert all(r["labeler_held_out"] for r in stage.others)
    assert not {r["prompt"] for r in stage.others} & {r["prompt"] for r in stage.train}
    accuracy = json.loads((out / "stages/reward.1/accuracy.json").read_text())
    assert accuracy["held_out_labelers"]["pairs"] > 0
    assert "labeler 5" not in accuracy["by_labeler"]


def test_each_fold_leaves_out_its_labelers_and_judges_on_prompts_held_out_for_all(out, tmp_path):
    stage = Folds(context(out, "folds", tmp_path / "work"))
    configure(stage.ctx)
    total = stage.setup()
    assert total == done(out, "folds")["parts"]["spec"]["reward.epochs"] * sum(
        -(-len(fold.train) // 4) for fold in stage.folds
    )
    left_out = [name for fold in stage.folds for name in fold.labelers]
    assert sorted(left_out) == ["labeler 1", "labeler 2", "labeler 3", "labeler 4"]
    for fold in stage.folds:
        group = set(fold.labelers)
        assert not group & {r["labeler"] for r in [*fold.train, *fold.seen]}
        assert {r["labeler"] for r in fold.unseen} <= group
        held = {r["prompt"] for r in [*fold.seen, *fold.unseen]}
        assert not held & {r["prompt"] for r in fold.train}
    planned = fold_training_steps(stage.ctx.spec, Counts(prompts=256))
    assert total == pytest.approx(planned, rel=0.2)


def test_folds_that_were_stopped_go_on_to_the_same_bits(out, tmp_path):
    wanted = json.loads((out / "stages/folds/folds.json").read_text())
    ctx = dataclasses.replace(context(out, "folds", tmp_path / "work"), threads=2)
    configure(ctx)
    (tmp_path / "work").mkdir()
    first = Folds(ctx)
    total = first.setup()
    stop = first.starts[1] + 3
    for i in range(stop):
        first.step(i)
    saved = first.state()
    second = Folds(ctx)
    second.setup()
    second.restore(saved)
    for i in range(stop, total):
        second.step(i)
    second.finish()
    assert json.loads((tmp_path / "work/folds.json").read_text()) == wanted


def test_more_groups_than_labelers_is_an_error():
    rows = [{"prompt": str(n), "labeler": f"l{n}"} for n in range(3)]
    assert [fold.labelers for fold in make_folds(rows, [], 2)] == [("l0", "l2"), ("l1",)]
    with pytest.raises(StageFailed, match=r"4 groups .* the rankings have 3"):
        make_folds(rows, [], 4)


def test_a_fold_with_nothing_to_learn_is_named_before_any_trains():
    tied, ranked = {"ranks": [1, 1]}, {"ranks": [1, 2]}
    rows = [{"prompt": str(n), "labeler": f"l{n}", **(ranked if n else tied)} for n in range(2)]
    wanted = r"folds: without the rankings of l1 .* \(1 prompts are left\).* lower folds.count"
    with pytest.raises(StageFailed, match=wanted):
        refuse_empty(make_folds(rows, [], 2))
    refuse_empty(make_folds([{**row, **ranked} for row in rows], [], 2))
    with pytest.raises(StageFailed, match=r"of l0 .* \(0 prompts are left\)"):
        refuse_empty(
            make_folds([{"prompt": "p", "labeler": "l0", **ranked}], [{"labeler": "l1"}], 2)
        )


def fold(labeler, seen, unseen, groups):
    return {
        "labelers": [labeler],
        "groups": [{"labelers": [name], "accuracy": value} for name, value in groups.items()],
        "training_labelers": {"accuracy": seen, "pairs": 9},
        "held_out_labelers": {"pairs": 0} if unseen is None else {"accuracy": unseen},
    }


RESULTS = (
    fold("a", 0.7, 0.6, {"a": 0.6, "b": 0.9, "c": None}),
    fold("b", 0.8, 0.8, {"a": 0.7, "b": 0.8, "c": None}),
    fold("c", 0.9, None, {"a": 0.9, "b": 0.8, "c": None}),
)


def test_means_and_errors_over_folds_worked_by_hand():
    found = summarize(list(RESULTS))
    assert found["training_labelers"] == pytest.approx({"mean": 0.75, "error": 0.05})
    assert found["held_out_labelers"] == pytest.approx({"mean": 0.7, "error": 0.1})
    # 0.6 less the mean of 0.7 and 0.9; 0.8 less the mean of 0.9 and 0.8; the third has no pairs
    assert found["difference"] == pytest.approx({"mean": -0.125, "error": 0.075})
    assert summarize([]) == {}


def test_results_find_their_group_by_name():
    """Whatever the order of the folds, and with one of them absent."""
    order = [RESULTS[2], RESULTS[0], RESULTS[1]]
    assert summarize(order)["difference"] == pytest.approx({"mean": -0.125, "error": 0.075})
    # without a's fold only b's group has both sides: 0.8 less 0.8
    assert summarize(list(RESULTS[1:]))["difference"] == pytest.approx({"mean": 0.0})


def test_the_report_shows_agreement_and_both_accuracies(out, capsys):
    report = summarize_run(out)
    folds = json.loads((out / "stages/folds/folds.json").read_text())
    assert report["folds"]["training_labelers"] == folds["training_labelers"]
    print_report(report)
    shown = capsys.readouterr().out
    mean, error = (100 * folds["training_labelers"][k] for k in ("mean", "error"))
    assert "labelers who train" in shown
    assert f"{mean:.1f} \u00b1 {error:.1f} %" in shown
    assert "labelers it never saw" in shown

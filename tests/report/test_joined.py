"""Several runs in one report: which models are the same, win rates, Elo, sweeps, the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.report.conftest import EVALUATION, SPEC, RunFolder, write_lines
from tests.report.test_command import run
from toolkit.report.joined.build import build, seconds_spent
from toolkit.report.joined.figures import draw_epochs
from toolkit.report.joined.models import join
from toolkit.report.load import load_run
from toolkit.spec.errors import ToolkitError

SFT = (0.0, 0.0, 1.0, 1.0)
POLICIES = {"a": (1.0, 1.0, 1.0, 0.0), "b": (1.0, 0.0, 0.0, 1.0), "c": (1.0, 1.0, 1.0, 1.0)}


def make(parent: Path, name: str, *, ptx: float = 2.0, seed: int = 7, sft: str = "sft") -> Path:
    """Write a run whose policy is its own and whose SFT model is that of `sft`."""
    text = SPEC.replace("name: fixture", f"name: {name}").replace("coef: 2.0", f"coef: {ptx}")
    made = RunFolder(parent / f"{name}-{seed}", text.replace("seed: 7", f"seed: {seed}"))
    keys = {"ppo": f"ppo {name} {seed}", "sft": f"{sft} {seed}"}
    made.finish_all(EVALUATION)
    for kind in made.nodes:
        path = made.stage(kind) / "done.json"
        done = json.loads(path.read_text())
        done["key"] = keys.get(kind, f"key-{kind}-{seed}")
        done["parts"]["seed"] = seed
        done["parts"]["inputs"] = {
            read: keys.get(stage.split(".")[0], f"key-{stage.split('.')[0]}-{seed}")
            for read, stage in made.nodes[kind].inputs.items()
        }
        path.write_text(json.dumps(done))
    rows = [
        {
            "prompt": f"p{at}",
            "models": {
                "sft": {"oracle": SFT[at]},
                "ppo_ema": {"oracle": POLICIES[name][at]},
                "ppo_last": {"oracle": 0.0},
            },
        }
        for at in range(4)
    ]
    write_lines(made.stage("evaluate") / "answers.jsonl", rows)
    return made.path


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return [make(tmp_path, "a"), make(tmp_path, "b", ptx=5.0)]


def joined(paths: list[Path]):
    return join([load_run(path) for path in paths])


def test_a_shared_model_is_one_and_each_policy_has_its_runs_name(two: list[Path]) -> None:
    found = joined(two)
    assert set(found.order) == {"sft", "a", "b"}
    assert found.prompts[7, "p0"] == {"sft": 0.0, "a": 1.0, "b": 1.0}


def test_win_rates_between_policies_of_two_runs_by_hand(two: list[Path]) -> None:
    report = build(joined(two))
    # a against b: tie, win, win, loss
    assert report["wins"]["a"]["b"]["win_rate"] == pytest.approx((0.5 + 1 + 1 + 0) / 4)
    assert report["wins"]["b"]["a"]["win_rate"] == pytest.approx(1.5 / 4)
    # a against sft: win, win, tie, loss
    assert report["wins"]["a"]["sft"]["win_rate"] == pytest.approx(2.5 / 4)
    elo = {m["name"]: m["elo"]["elo"] for m in report["models"]}
    assert elo["sft"] == 1000
    assert elo["a"] > elo["b"]


def test_another_sft_model_gets_its_runs_name(tmp_path: Path) -> None:
    paths = [make(tmp_path, "a"), make(tmp_path, "b", ptx=5.0), make(tmp_path, "c", sft="large")]
    assert set(joined(paths).order) == {"sft", "c sft", "a", "b", "c"}


def test_seeds_of_a_run_are_one_model_with_figures_of_each(tmp_path: Path) -> None:
    paths = [make(tmp_path, "a"), make(tmp_path, "b"), make(tmp_path, "a", seed=8)]
    report = build(joined(paths))
    model = next(m for m in report["models"] if m["name"] == "a")
    assert model["seeds"] == [7, 8]
    assert model["wins"]["prompts"] == 8
    assert model["wins"]["by_seed"] == {"7": 0.625, "8": 0.625}
    assert model["oracle"]["mean"] == pytest.approx(0.913)


def test_runs_that_differ_in_one_coefficient_are_a_sweep(tmp_path: Path) -> None:
    paths = [make(tmp_path, n, ptx=v) for n, v in (("a", 5.0), ("b", 0.0), ("c", 1.0))]
    (sweep,) = build(joined(paths))["sweeps"]
    assert sweep["path"] == "ppo.ptx.coef"
    assert [(p["value"], p["model"]) for p in sweep["points"]] == [(0, "b"), (1, "c"), (5, "a")]
    assert [p["win_rate"] for p in sweep["points"]] == [0.5, 0.75, 0.625]


def test_a_stage_that_runs_share_is_counted_once(two: list[Path]) -> None:
    runs = build(joined(two))["runs"]
    # all but ppo have one key in both runs here
    assert seconds_spent(runs) == 12.5 * (len(runs[0]["keys"]) + 1)


def test_models_that_share_no_prompt_are_refused(tmp_path: Path) -> None:
    one, other = make(tmp_path, "a"), make(tmp_path, "c", sft="large")
    rows = [
        json.loads(x) for x in (other / "stages/evaluate/answers.jsonl").read_text().splitlines()
    ]
    write_lines(
        other / "stages/evaluate/answers.jsonl",
        [row | {"prompt": "other " + row["prompt"]} for row in rows],
    )
    with pytest.raises(ToolkitError, match="no rating connects them"):
        build(joined([one, other]))


def test_two_policies_under_one_name_are_refused(tmp_path: Path) -> None:
    one = make(tmp_path / "x", "a")
    other = make(tmp_path / "y", "a")
    text = (other / "stages/evaluate/done.json").read_text().replace("ppo a 7", "ppo z 7")
    (other / "stages/evaluate/done.json").write_text(text)
    ppo = other / "stages/ppo.1/done.json"
    ppo.write_text(ppo.read_text().replace("ppo a 7", "ppo z 7"))
    with pytest.raises(ToolkitError, match="names of their own"):
        joined([one, other])


def test_the_command_writes_one_page_and_json(two: list[Path], capsys) -> None:
    assert run(*map(str, two)) == 0
    out = capsys.readouterr().out
    assert "is preferred: Elo" in out
    page = (two[0].parent / "report.html").read_text()
    assert page.count("<html") == 1
    assert "Alignment tax" in page
    assert "http://" not in page
    assert "https://" not in page
    report = json.loads((two[0].parent / "report.json").read_text())
    assert report["prompts"] == 4


def test_a_folder_named_twice_is_refused(two: list[Path]) -> None:
    with pytest.raises(ToolkitError, match="named twice"):
        run(str(two[0]), str(two[0]))


def test_a_reward_model_without_a_held_out_pair_is_left_out_of_the_epochs() -> None:
    measured = {"run": "a", "by_epoch": [{"accuracy": 0.5, "loss": 0.7}] * 2}
    empty = {"run": "b", "by_epoch": [{"pairs": 0, "accuracy": None, "loss": None}] * 2}
    assert draw_epochs([empty]) == ""
    assert draw_epochs([measured, empty]) == draw_epochs([measured]) != ""

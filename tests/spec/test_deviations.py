"""A spec against a preset: the recipe, and apart from it what a run is done with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.spec.conftest import Write
from tests.stub_model import make_stub_model
from toolkit.spec.deviations import ENVIRONMENT, UNSAID, Comparison, comment_at, compare
from toolkit.spec.layers import preset_names, preset_tree
from toolkit.spec.load import examine_spec, load_spec
from toolkit.spec.schema import Spec
from toolkit.spec.vocabulary import all_paths, find_key
from toolkit.spec.yaml_tree import Mark

PAPERS = [name for name in preset_names() if name.startswith("instructgpt/")]
MODEL = "models: {base: {architecture: gpt2, config: {n_positions: 2048}}}\n"
TASK = "data: {task: {name: sort}}\n"
ROOT = Path(__file__).parents[2]


def found(write: Write, text: str, *overrides: str, preset: str | None = None) -> Comparison:
    return compare(load_spec(write(text), overrides), preset)


def changes(comparison: Comparison) -> dict[str, tuple[str, str]]:
    return {d.path: (d.preset, d.own) for d in comparison.recipe}


@pytest.mark.parametrize("name", PAPERS)
def test_the_pure_preset_deviates_in_nothing(name: str, write: Write) -> None:
    comparison = found(write, f"extends: {name}\n{MODEL}{TASK}")
    assert comparison.preset == name
    assert comparison.recipe == ()
    assert [d.path for d in comparison.environment] == [
        "models.base.architecture", "models.base.config", "data.task",
    ]  # fmt: skip
    assert "C.2" in comparison.note


def test_a_deviation_says_both_values_where_and_why(write: Write) -> None:
    text = (
        f"extends: instructgpt/1.3b\n{MODEL}{TASK}hardware: {{precision: fp32}}\n"
        "ppo:\n  # long answers\n  # leave little room\n  kl: {coef: 0.05}\n"
        '  lr: 1e-6   # "#" is slower\n  ptx: null\n'
    )
    comparison = found(write, text, "sft.epochs=2")
    rows = {d.path: d for d in comparison.recipe}
    assert changes(comparison) == {
        "sft.epochs": ("16", "2"),
        "ppo.lr": ("8.0e-06", "1.0e-06"),
        "ppo.kl.coef": ("0.02", "0.05"),
        "ppo.ptx": ("on", "null"),
    }
    assert rows["ppo.kl.coef"].origin == "spec.yaml:8"
    assert rows["ppo.kl.coef"].why == "long answers leave little room"
    assert rows["ppo.lr"].why == '"#" is slower'
    assert (rows["sft.epochs"].origin, rows["sft.epochs"].why) == ("command line", "")
    assert "hardware.precision" in [d.path for d in comparison.environment]


def test_the_paper_goes_before_other_presets_and_a_file_between_is_passed(write: Write) -> None:
    write(f"extends: instructgpt/6b\n{MODEL}{TASK}ppo: {{ema: null}}\n", "base.yaml")
    text = "extends: base.yaml\nevaluate: {weights: last}\nexport: {weights: last}\n"
    comparison = found(write, text)
    assert comparison.preset == "instructgpt/6b"
    assert changes(comparison) == {"ppo.ema": ("0.992", "null")}
    assert found(write, f"extends: tiny\n{TASK}").preset == "tiny"
    assert found(write, f"extends: tiny\n{TASK}").note == ""
    assert found(write, f"{MODEL}{TASK}").preset == "instructgpt/1.3b"


def test_a_value_left_to_the_default_is_a_deviation_too(write: Write) -> None:
    comparison = found(write, f"{MODEL}{TASK}", preset="instructgpt/175b")
    rows = {d.path: d for d in comparison.recipe}
    assert changes(comparison)["sft.lr"] == ("5.03e-06", "9.65e-06")
    assert rows["sft.lr"].origin == "default"


def test_a_start_from_the_sft_model_is_one_deviation_however_it_is_written(write: Write) -> None:
    for written in ("sft", "null"):
        comparison = found(
            write, f"extends: instructgpt/1.3b\n{MODEL}{TASK}ppo: {{init: {written}}}"
        )
        assert changes(comparison) == {"ppo.init": ("on", "null")}
    assert (
        changes(found(write, f"{MODEL}{TASK}ppo: {{init: sft}}", preset="tiny")).get("ppo.init")
        is None
    )


def test_every_path_of_the_environment_is_a_key() -> None:
    assert [n for n in (*ENVIRONMENT, *UNSAID) if find_key(Spec, tuple(n.split("."))) is None] == []


def test_the_presets_say_every_value_of_the_recipe() -> None:
    """What the paper prints stands in the preset's file, never in a default behind it."""
    marks = examine_spec(ROOT / "toolkit/spec/presets/instructgpt/1.3b.yaml").loaded.marks
    silent = []
    for path, info in all_paths(Spec):
        name = ".".join(path)
        around = any(name == e or name.startswith(f"{e}.") for e in (*ENVIRONMENT, *UNSAID))
        off = any(find_key(Spec, path[:n]).default is None for n in range(1, len(path)))
        if info.section is None and not around and path not in marks and not off:
            silent.append(name)
    assert silent == SILENT


SILENT = ["collect.sources", "ppo.stop_if.kl_above"]
"""Ours entirely: who answers before there is a PPO policy, and when a run is given up."""


@pytest.mark.parametrize("name", PAPERS)
def test_every_line_of_a_preset_names_its_section_or_says_ours(name: str) -> None:
    file = ROOT / "toolkit/spec/presets" / f"{name}.yaml"
    loaded = examine_spec(file).loaded
    lines = {mark.line for mark in loaded.marks.values() if mark.file == str(file)}
    values = file.read_text(encoding="utf-8").splitlines()
    bare = []
    for line in sorted(lines):
        if values[line - 1].rstrip().endswith(":") or values[line - 1].startswith("extends:"):
            continue
        why = comment_at(Mark(str(file), line))
        if not any(word in why for word in ("C:", "C.", "3.2", "3.5", "table 6", "ours", "Ours")):
            bare.append(f"{name}:{line} {values[line - 1]}")
    assert bare == []


def test_the_values_of_the_three_sizes_are_those_of_the_appendix() -> None:
    trees = {name: preset_tree(name) for name in PAPERS}
    sizes = ["instructgpt/1.3b", "instructgpt/6b", "instructgpt/175b"]
    assert [trees[s]["sft"]["lr"] for s in sizes] == [9.65e-6, 9.65e-6, 5.03e-6]
    assert [trees[s]["sft"]["batch"] for s in sizes] == [32, 32, 8]
    starts = [trees[s]["ppo"]["init"] for s in sizes]
    assert [(start["lr"], start["batch"]) for start in starts] == [
        (5e-6, 32), (1.04e-5, 32), (2.45e-6, 8),
    ]  # fmt: skip
    assert {(start["sft_epochs"], start["pretrain_mix"]) for start in starts} == {(2, 0.1)}
    assert [trees[s]["ppo"]["value"]["lr"] for s in sizes] == [9e-6, 9e-6, 5e-6]
    for tree in trees.values():
        ppo = tree["ppo"]
        assert (ppo["episodes"], ppo["batch"], ppo["minibatch"]) == (256000, 512, 64)
        assert (ppo["kl"]["coef"], ppo["ptx"]["coef"], ppo["ptx"]["ratio"]) == (0.02, 27.8, 8)
        assert (ppo["ema"], ppo["cliprange"], ppo["inner_epochs"]) == (0.992, 0.2, 1)
        assert (tree["sft"]["epochs"], tree["sft"]["dropout"]) == (16, 0.2)
        assert (tree["reward"]["lr"], tree["reward"]["batch"]) == (9e-6, 64)
        assert 2.55e-6 <= ppo["lr"] <= 8.05e-6


def test_the_shipped_spec_is_sound_where_its_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    missing = [p.path for p in examine_spec(ROOT / "specs/instructgpt-1.3b.yaml").problems]
    assert missing == [
        "models.base.path", "models.reward.path", "data.demonstrations.path", "data.prompts.path",
        "data.rankings.path", "data.pretrain.path",
    ]  # fmt: skip
    for folder in ("models/base-1.3b", "models/base-6b", "data"):
        make_stub_model(Path(folder), n_positions=2048)
    for name in ("demonstrations.jsonl", "prompts.jsonl", "rankings.jsonl", "pretrain.txt"):
        Path("data", name).write_text("", encoding="utf-8")
    loaded = load_spec(ROOT / "specs/instructgpt-1.3b.yaml")
    assert [d.path for d in compare(loaded).recipe] == ["collect"]

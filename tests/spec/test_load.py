"""Layers, overrides, interpolation, and what a value becomes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.spec.conftest import MINIMAL, Write
from toolkit.spec.errors import SpecError
from toolkit.spec.load import examine_spec, load_spec
from toolkit.spec.schema import Spec
from toolkit.spec.vocabulary import all_paths


def problems(path: str, *overrides: str) -> list[str]:
    return [str(problem) for problem in examine_spec(path, overrides).problems]


def test_scientific_notation_without_a_dot_is_a_number(write: Write) -> None:
    path = write(MINIMAL + "sft: {lr: 9e-6}\nppo: {lr: 1E-5, episodes: 1.28e3}\n")
    spec = load_spec(path).spec
    assert spec.sft is not None
    assert spec.ppo is not None
    assert (spec.sft.lr, spec.ppo.lr, spec.ppo.episodes) == (9e-6, 1e-5, 1280)


def test_whole_numbers_serve_where_a_float_is_due(write: Write) -> None:
    spec = load_spec(write(MINIMAL + "ppo: {gamma: 1}\n")).spec
    assert spec.ppo is not None
    assert isinstance(spec.ppo.gamma, float)


def test_one_k_means_exactly_k(write: Write) -> None:
    spec = load_spec(write(MINIMAL + "collect: {k: 5}\n")).spec
    assert spec.collect is not None
    assert spec.collect.k == (5, 5)


def test_null_switches_a_section_off_and_braces_turn_it_on(write: Write) -> None:
    path = write(MINIMAL + "evaluate: null\nexport: null\nppo: {ptx: {ratio: 1, length: 64}}\n")
    off = load_spec(path, ["ppo=null"]).spec
    on = load_spec(path, ["evaluate={}"]).spec
    assert off.ppo is None
    assert off.evaluate is None
    assert on.evaluate is not None
    assert on.evaluate.prompts == 512
    assert on.ppo is not None
    assert on.ppo.ptx is not None
    assert on.ppo.ptx.coef == 27.8


def test_defaults_of_a_key_win_over_defaults_of_its_class(write: Write) -> None:
    spec = load_spec(write(MINIMAL + "ppo: {optimizer: {clip_norm: 2}}\n")).spec
    assert spec.ppo is not None
    assert spec.ppo.optimizer.eps == 1e-5


def test_nearer_layers_win_and_are_named_as_origin(write: Write) -> None:
    write(MINIMAL + "sft: {epochs: 5, batch: 8}\n", "base.yaml")
    path = write("extends: base.yaml\nname: x\nsft:\n  batch: 9\n")
    loaded = load_spec(path, ["ppo.kl.coef=0.05"])
    assert loaded.spec.sft is not None
    assert (loaded.spec.sft.epochs, loaded.spec.sft.batch) == (5, 9)
    assert loaded.spec.out == "runs/x"
    origins = [loaded.origin(key) for key in ("sft.epochs", "sft.batch", "sft.lr", "ppo.kl.coef")]
    assert origins == ["base.yaml:3", "spec.yaml:4", "preset tiny", "command line"]
    assert loaded.origin("seed") == "default"


def test_a_circle_of_extends_is_reported(write: Write) -> None:
    write("extends: spec.yaml\n", "base.yaml")
    path = write("extends: base.yaml\ndata: {task: {name: sort}}\n")
    assert "base.yaml:1:1  extends  spec.yaml extends itself in a circle; remove one `extends`" in (
        problems(path)
    )


def test_another_architecture_drops_the_presets_configuration(write: Write) -> None:
    path = write(MINIMAL + "models: {base: {architecture: gpt_neox, config: {hidden_size: 64}}}\n")
    assert load_spec(path).spec.models.base.config == {"hidden_size": 64}


def test_a_model_folder_replaces_the_presets_architecture(write: Write) -> None:
    path = write(MINIMAL + "models: {base: {path: model}}\n")
    base = load_spec(path, files=False).spec.models.base
    assert (base.path, base.architecture, base.config) == ("model", None, {})


def test_sources_of_a_file_replace_and_one_of_the_command_line_adds(write: Write) -> None:
    write(MINIMAL + "collect: {sources: {sft: 2}}\n", "base.yaml")
    path = write("extends: base.yaml\ncollect: {sources: {base: 1}}\n")
    replaced = load_spec(path).spec.collect
    added = load_spec(path, ["collect.sources.sft=3"]).spec.collect
    assert replaced is not None
    assert added is not None
    assert replaced.sources == {"base": 1.0}
    assert added.sources == {"base": 1.0, "sft": 3.0}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ppo.kl.coeff=0.1", 'command line  ppo.kl.coeff  unknown key; did you mean "coef"?'),
        ("ppo.kl.coef", 'expected key=value such as ppo.kl.coef=0.05, got "ppo.kl.coef"'),
        ("ppo.kl.coef=", "no value; expected: number, at least 0, such as ppo.kl.coef=0.02"),
        ("ppo.kl.coef=[1", "quote it"),
        ("seed.x=1", "expected a whole number, got a section"),
        ("extends=tyny", 'no preset "tyny"; did you mean "tiny"?'),
    ],
)
def test_a_bad_override_names_the_command_line(write: Write, override: str, message: str) -> None:
    found = problems(write(), override)
    assert any(line.startswith("command line") and message in line for line in found), found


def test_overrides_take_lists_and_texts_with_equals(write: Write) -> None:
    spec = load_spec(write(), ["log=[jsonl]", "text.template='a={prompt}{response}'"]).spec
    assert spec.log == ["jsonl"]
    assert spec.text.template == "a={prompt}{response}"


def test_a_problem_in_the_preset_is_blamed_on_the_users_line(write: Write) -> None:
    path = write("extends: tiny\ndata: {task: {name: sort}}\ntext: {max_prompt: 200}\n")
    assert problems(path)[0].startswith("spec.yaml:3:8  text.max_prompt  max_prompt 200 +")


def test_environment_and_escaped_dollar(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNS", "elsewhere")
    path = write(MINIMAL + "out: ${oc.env:RUNS}/a\ntext: {template: '\\${x} {prompt}{response}'}\n")
    spec = load_spec(path).spec
    assert spec.out == "elsewhere/a"
    monkeypatch.delenv("RUNS")
    assert "the environment variable RUNS is not set; export RUNS=... first" in problems(path)[0]
    assert spec.text.template == "${x} {prompt}{response}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("- a\n", "expected `key: value` lines at the top"),
        ("a:\n\tb: 1\n", "indent with spaces, not tabs"),
        ("name: a\x00b\n", "character #x0000 is not allowed"),
        ("sft: &x {optimizer: *x}\n", "an alias that contains itself"),
        ("data: {task: !python/object:os.system {}}\n", "expected name"),
        ("? [a]\n: 1\n", "a key must be a plain word"),
    ],
)
def test_what_is_not_a_spec_is_said_in_one_sentence(write: Write, text: str, message: str) -> None:
    assert any(message in line for line in problems(write(text))), problems("spec.yaml")


def test_files_that_cannot_be_read(write: Write) -> None:
    write()
    Path("folder").mkdir()
    Path("latin.yaml").write_bytes(b"name: caf\xe9\n")
    assert "no such file" in problems("spce.yaml")[0]
    assert "is a folder" in problems("folder")[0]
    assert "is not UTF-8" in problems("latin.yaml")[0]


def test_a_spec_that_is_not_there_is_corrected(write: Write) -> None:
    write(name="mine.yaml")
    assert problems("mine") == ['mine  no such file; did you mean "mine.yaml"?']
    assert problems("mine.yml") == ['mine.yml  no such file; did you mean "mine.yaml"?']
    assert problems("other/x") == [
        "other/x  no such file; paths are relative to the current directory"
    ]


@pytest.mark.parametrize("base", ["tinny", "other.yaml"])
def test_what_a_missing_base_may_hold_is_not_asked_for(write: Write, base: str) -> None:
    (first, second) = problems(write(f"extends: {base}\nname: x\nsft: {{lr: abc}}\n"))
    assert first.startswith("spec.yaml:1:1  extends  no ")
    assert "expected a number" in second


def test_a_sound_spec_raises_nothing_and_a_broken_one_has_exit_code_2(write: Write) -> None:
    load_spec(write())
    with pytest.raises(SpecError) as caught:
        load_spec(write(MINIMAL + "sfft: {}\n"))
    assert caught.value.exit_code == 2


ODD = [None, True, -1, 1e30, "", "???", "${", "${ppo}", [], [None], {}, {"a": 1}]


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_no_value_of_any_key_escapes_as_a_crash(write: Write, odd: object) -> None:
    value = json.dumps(odd)
    keys = [".".join(path) for path, info in all_paths(Spec) if info.section is None]
    examined = examine_spec(write(), [f"{key}={value}" for key in keys])
    assert all(problem.message for problem in examined.problems)


@pytest.mark.parametrize("odd", ["3", "[a]", "null"])
def test_a_section_that_is_no_section_is_one_problem(write: Write, odd: str) -> None:
    for path, info in all_paths(Spec):
        if info.section is not None and len(path) == 1 and not (odd == "null" and info.optional):
            found = problems(write(), f"{path[0]}={odd}")
            assert sum(f"  {path[0]}  " in line for line in found) == 1, found

"""The resolved spec loads to an equal spec and says where each value came from."""

from __future__ import annotations

import keyword
from pathlib import Path

from tests.spec.conftest import MINIMAL, Write
from toolkit.spec.docs import make_docs
from toolkit.spec.kinds import parse_every
from toolkit.spec.layers import preset_names
from toolkit.spec.load import load_spec
from toolkit.spec.resolved import resolved_yaml
from toolkit.spec.schema import Spec
from toolkit.spec.vocabulary import all_paths
from toolkit.spec.walk import read_value

ROOT = Path(__file__).parents[2]


def test_the_resolved_spec_loads_alike(write: Write) -> None:
    text = MINIMAL + 'name: x\ntext: {template: "\\\\${a}\\n{prompt}: # \u00e9 {response}"}\n'
    loaded = load_spec(
        write(text), ["ppo.kl.coef=0.05", "collect.sources.base=0.5", "ppo.ptx={length: 64}"]
    )
    again = load_spec(write(resolved_yaml(loaded), "resolved.yaml"))
    assert again.spec == loaded.spec
    assert again.tree == loaded.tree


def test_each_value_carries_its_origin(write: Write) -> None:
    lines = resolved_yaml(load_spec(write(MINIMAL + "seed: 7\n"), ["sft.batch=3"])).splitlines()
    found = {line.split("#")[0].strip(): line.split("#")[-1].strip() for line in lines[1:]}
    assert found["seed: 7"] == "spec.yaml:3"
    assert found["batch: 3"] == "command line"
    assert found["architecture: gpt2"] == "preset tiny"
    assert found["deterministic: true"] == "default"
    assert found["out: runs/run"] == "default"


def test_the_docs_are_up_to_date() -> None:
    written = (ROOT / "docs" / "SPEC.md").read_text(encoding="utf-8")
    assert written == make_docs(), "run `make specs`"


def test_every_preset_is_sound(write: Write) -> None:
    model = "{architecture: gpt2, config: {n_positions: 2048}}"
    for name in preset_names():
        own = "" if name == "tiny" else f"models: {{base: {model}}}\n"
        loaded = load_spec(write(f"extends: {name}\n{own}data: {{task: {{name: sort}}}}\n"))
        assert f"preset {name}" in loaded.origins.values()


def test_every_default_lies_in_its_own_range() -> None:
    for path, info in all_paths(Spec):
        if info.section is None and info.default not in (None, "", {}):
            default = list(info.default) if isinstance(info.default, tuple) else info.default
            assert read_value(info, default) == info.default, path


def test_no_key_is_a_python_keyword() -> None:
    assert not [path for path, _ in all_paths(Spec) if keyword.iskeyword(path[-1])]


def test_durations_are_seconds_or_steps() -> None:
    assert parse_every("90s").seconds == 90
    assert parse_every("1.5m").seconds == 90
    assert parse_every("2h").seconds == 7200
    assert parse_every("50 steps").steps == 50

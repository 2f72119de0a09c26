"""`check` finds a model folder that is not whole, or that transformers cannot load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.stub_model import make_stub_model
from tests.tiny import tiny_model, tiny_text
from toolkit.models.save import save_model
from toolkit.spec import architectures, model_folder
from toolkit.spec.architectures import model_types
from toolkit.spec.load import examine_spec
from toolkit.spec.model_folder import model_fault, weight_files, whole_size

SPEC = "extends: tiny\ndata: {task: {name: sort}}\nmodels: {base: {path: model}}\n"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    text = tiny_text()
    save_model(tiny_model(text), Path("model"), text)
    Path("spec.yaml").write_text(SPEC, encoding="utf-8")
    return Path("model")


def split_into_shards(model: Path) -> None:
    """Name the weights as two shards, as transformers does with large models."""
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").unlink()
    for name in ("a.safetensors", "b.safetensors"):
        (model / name).write_bytes(weights)
    index = {"weight_map": {"one": "a.safetensors", "two": "b.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def test_a_whole_folder_has_no_fault(model):
    assert model_fault(model) is None
    assert whole_size(model / "model.safetensors") == (model / "model.safetensors").stat().st_size
    split_into_shards(model)
    assert model_fault(model) is None
    assert [path.name for path in weight_files(model)] == ["a.safetensors", "b.safetensors"]


def cut(model: Path) -> None:
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:3000])


def cut_the_head(model: Path) -> None:
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:100])


def point(model: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (model / "model.safetensors").write_text(text, encoding="utf-8")


def lose_a_shard(model: Path) -> None:
    split_into_shards(model)
    (model / "b.safetensors").unlink()


def lose_the_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()


def tear_the_configuration(model: Path) -> None:
    (model / "config.json").write_text("{", encoding="utf-8")


def name_an_unknown_type(model: Path) -> None:
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps(config | {"model_type": "gtp_2"}))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (cut, "has 3000 bytes where its head tells of"),
        (cut_the_head, "is no safetensors file; copy it again"),
        (point, "is a pointer of Git LFS and no weights; run git lfs pull"),
        (lose_a_shard, "b.safetensors is missing, and the index beside it names it"),
        (lose_the_weights, '"model" has no weights; expected model.safetensors'),
        (tear_the_configuration, "is no JSON object; copy the file again"),
        (
            name_an_unknown_type,
            'model/config.json has model_type "gtp_2", expected one that the installed '
            'transformers knows, such as "gpt2"; correct it, or update transformers',
        ),
    ],
)
def test_what_is_not_whole_is_a_problem_of_the_spec(model, harm, message):
    assert not [p for p in examine_spec("spec.yaml").problems if p.path == "models.base.path"]
    harm(model)
    (problem,) = [p for p in examine_spec("spec.yaml").problems if p.path == "models.base.path"]
    assert message in problem.message
    assert problem.line == 3


def test_every_type_that_transformers_knows_is_known():
    from transformers import CONFIG_MAPPING

    assert set(CONFIG_MAPPING.keys()) <= model_types()
    assert "CONFIG_MAPPING" not in model_types()


def test_nothing_is_said_of_a_type_where_transformers_is_missing(tmp_path, monkeypatch):
    model = make_stub_model(tmp_path / "model", model_type="gtp_2")
    assert model_fault(model) is not None
    monkeypatch.setattr(architectures, "_package", lambda: None)
    monkeypatch.setattr(model_folder, "model_types", architectures.model_types.__wrapped__)
    assert model_fault(model) is None

"""`check` finds a model folder that is not whole, or that transformers cannot load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.stub_model import make_stub_model
from tests.tiny import tiny_model, tiny_text
from toolkit.models.save import save_model
from toolkit.spec import architectures, model_type
from toolkit.spec.architectures import model_types, types_with
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


def configure(model: Path, **changes: object) -> None:
    """Change the configuration; None takes a setting out."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8")) | changes
    kept = {key: value for key, value in config.items() if value is not None}
    (model / "config.json").write_text(json.dumps(kept), encoding="utf-8")


def name_an_unknown_type(model: Path) -> None:
    configure(model, model_type="gtp_2")


def name_no_type(model: Path) -> None:
    configure(model, model_type=None)


def name_a_sequence_to_sequence_model(model: Path) -> None:
    configure(model, model_type="t5")


def name_an_encoder(model: Path) -> None:
    configure(model, model_type="bert")


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
        (
            name_no_type,
            'model/config.json has no model_type, expected one such as "gpt2"; copy the file again',
        ),
        (
            name_a_sequence_to_sequence_model,
            'model/config.json has model_type "t5", a type that transformers has no causal '
            "language model of; name a model of another type, such as gpt2, llama or qwen2",
        ),
        (
            name_an_encoder,
            'model/config.json has model_type "bert", an encoder, which reads a text in both '
            "directions; name a model of another type",
        ),
    ],
)
def test_what_is_not_whole_is_a_problem_of_the_spec(model, harm, message):
    assert not [p for p in examine_spec("spec.yaml").problems if p.path == "models.base.path"]
    harm(model)
    (problem,) = [p for p in examine_spec("spec.yaml").problems if p.path == "models.base.path"]
    assert message in problem.message
    assert problem.line == 3


@pytest.mark.parametrize(("name", "setting"), [("bert", "is_decoder"), ("xlm", "causal")])
def test_a_type_that_decodes_where_its_configuration_says_so_is_taken(tmp_path, name, setting):
    model = make_stub_model(tmp_path / "model", model_type=name, is_encoder_decoder=True)
    assert "an encoder" in str(model_fault(model))
    configure(model, **{setting: True})
    assert model_fault(model) is None


def test_a_reward_model_is_of_a_type_that_transformers_has_a_classifier_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_stub_model(Path("rm"), model_type="granite")
    Path("spec.yaml").write_text(
        "extends: tiny\ndata: {task: {name: sort}}\ncollect: {sources: {rm: 1}}\n"
        "reward: {init: base}\nmodels: {base: {path: rm}, reward: {path: rm}}\n"
        "label: {by: model, model: {path: rm}}\n",
        encoding="utf-8",
    )

    def found(*overrides):
        problems = examine_spec("spec.yaml", overrides).problems
        said = '"granite", a type that transformers has no sequence'
        return {p.path for p in problems if said in p.message}

    assert found() == {"models.reward.path", "label.model.path"}
    by_oracle = "label={by: oracle, model: null}"
    own = (by_oracle, "models.reward={architecture: gpt2, path: null}")
    none = (by_oracle, "models.reward=null")
    only_rankings = ("ppo=null", "dpo={}", "evaluate=null", "reward.gate=null")
    assert found(*own) == set()
    assert found(*own, "ppo.value.init=sft") == {"models.base.path"}
    assert found(*none) == {"models.base.path"}
    assert found(*none, *only_rankings) == set()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("architecture: t5", '"t5" is a type that transformers has no causal language model of;'),
        ("architecture: bert", '"bert" is an encoder, which reads a text in both directions;'),
        (
            "architecture: bart",
            '"bart" is a type that transformers has no sequence classifier with',
        ),
        ("architecture: granite", '"granite" is a type that transformers has no sequence'),
        ("architecture: gpt_neox", None),
    ],
)
def test_a_model_from_scratch_is_of_a_type_that_generates(tmp_path, model, message):
    spec = tmp_path / "spec.yaml"
    spec.write_text(f"{SPEC.replace('path: model', model)}", encoding="utf-8")
    found = [p.message for p in examine_spec(spec).problems if "architecture" in p.path]
    assert len(found) == (message is not None)
    assert all(text.startswith(message) for text in found)


def test_what_learns_from_rankings_alone_may_be_of_a_type_without_a_classifier(tmp_path):
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC, encoding="utf-8")
    words = ("ppo=null", "dpo={}", "evaluate=null", "reward.gate=null")
    for model in ("{architecture: bart}", "{architecture: bert, config: {is_decoder: true}}"):
        problems = examine_spec(spec, [*words, f"models.base={model}"]).problems
        assert not [p for p in problems if "architecture" in p.path]


@pytest.mark.parametrize(
    ("head", "table"),
    [
        ("CAUSAL_LM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"),
        ("MASKED_LM", "MODEL_FOR_MASKED_LM_MAPPING_NAMES"),
        ("SEQ_TO_SEQ_CAUSAL_LM", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"),
        ("SEQUENCE_CLASSIFICATION", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"),
    ],
)
def test_the_types_with_a_head_are_those_of_transformers(head, table):
    from transformers.models.auto import modeling_auto

    assert types_with(head) == set(getattr(modeling_auto, table))


def test_every_type_that_transformers_knows_is_known():
    from transformers import CONFIG_MAPPING

    assert set(CONFIG_MAPPING.keys()) <= model_types()
    assert "CONFIG_MAPPING" not in model_types()


@pytest.mark.parametrize("name", ["gtp_2", "t5"])
def test_nothing_is_said_of_a_type_where_transformers_is_missing(tmp_path, monkeypatch, name):
    model = make_stub_model(tmp_path / "model", model_type=name)
    assert model_fault(model) is not None
    monkeypatch.setattr(architectures, "_package", lambda: None)
    for function in ("model_types", "types_with"):
        monkeypatch.setattr(model_type, function, getattr(architectures, function).__wrapped__)
    assert model_fault(model) is None

"""One kernel computes gelu's tanh form in every model that has it; nothing else changes."""

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from tests.tiny import tiny_text
from toolkit.models.activation import TanhGelu, fuse_activations
from toolkit.models.load import load_base, load_policy, load_scalar, make_scalar
from toolkit.models.save import save_model
from toolkit.spec.schema import ModelSource
from toolkit.training.random import Stream

SIZES = {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 16, "vocab_size": 12}
IDS = torch.arange(10).view(2, 5)


def make(activation, architecture="gpt2", **sizes):
    torch.manual_seed(0)
    named = {"gpt2": "activation_function"}.get(architecture, "hidden_act")
    config = AutoConfig.for_model(architecture, **{named: activation}, **(sizes or SIZES))
    return AutoModelForCausalLM.from_config(config).eval()


def with_large_weights(model):
    """Draw what is 0.02 at the start anew, so that the activation decides what comes out."""
    for weight in model.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.5)
    return model


def count(model):
    return sum(isinstance(module, TanhGelu) for module in model.modules())


def same_passes(fused, plain):
    for model in (plain, fused):
        model(IDS, labels=IDS).loss.backward()
    torch.testing.assert_close(fused(IDS).logits, plain(IDS).logits, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"]
)
def test_every_name_of_the_formula_is_one_kernel_with_the_same_results(name):
    plain = with_large_weights(make(name))
    fused = copy.deepcopy(plain)
    fuse_activations(fused)
    assert count(fused) == 2
    same_passes(fused, plain)


def test_another_formula_would_be_seen():
    """gelu by the error function, which is within 5e-4 everywhere."""
    plain, other = with_large_weights(make("gelu_new")), make("gelu")
    other.load_state_dict(plain.state_dict())
    with pytest.raises(AssertionError, match="not close"):
        same_passes(other, plain)


def test_the_formula_that_bloom_has_of_its_own_is_one_kernel():
    torch.manual_seed(0)
    config = AutoConfig.for_model("bloom", hidden_size=16, n_layer=2, n_head=2, vocab_size=12)
    plain = with_large_weights(AutoModelForCausalLM.from_config(config).eval())
    fused = copy.deepcopy(plain)
    fuse_activations(fused)
    assert (count(plain), count(fused)) == (0, 2)
    same_passes(fused, plain)


@pytest.mark.parametrize("name", ["gelu", "quick_gelu", "relu", "silu"])
def test_another_activation_stays(name):
    model = make(name)
    fuse_activations(model)
    assert count(model) == 0


def test_a_gated_feed_forward_is_found():
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 12}
    model = make("gelu_pytorch_tanh", "llama", num_attention_heads=2, **sizes)
    fuse_activations(model)
    assert count(model) == 2


def test_weights_and_config_are_saved_as_before(tmp_path):
    model = make("gelu_new")
    names = set(model.state_dict())
    fuse_activations(model)
    assert set(model.state_dict()) == names
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config.activation_function == "gelu_new"
    torch.testing.assert_close(again(IDS).logits, model(IDS).logits, rtol=1e-5, atol=1e-6)
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=1) is not None


def test_every_model_that_a_stage_loads_has_it(tmp_path):
    text = tiny_text()
    config = {key: value for key, value in SIZES.items() if key != "vocab_size"}
    base = load_base(ModelSource(architecture="gpt2", config=config), text, Stream(1, "base"))
    save_model(base, tmp_path / "base", text)
    scalar = make_scalar(tmp_path / "base", text, Stream(1, "head"))
    save_model(scalar, tmp_path / "scalar", text)
    loaded = [load_policy(tmp_path / "base", text), load_scalar(tmp_path / "scalar", text)]
    assert [count(model) for model in (base, scalar, *loaded)] == [2] * 4

"""A GPT-2 with and without its layers' kernels, which of them were called, in two precisions."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from toolkit.models import layers
from toolkit.models.activation import fuse_activations
from toolkit.models.layers import fuse_layers
from toolkit.models.load import set_residual_dropout

IDS = torch.arange(44).view(4, 11) % 12
HALVES = ["self_attention", "feed_forward"]
_LOWERED = 0.03  # of the norm


def make(fused=True, architecture="gpt2", **changes):
    """A model whose layers do something, and its dropout off."""
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_embd": 48, "n_head": 3, "n_positions": 32, "vocab_size": 12}
    config = AutoConfig.for_model(architecture, **sizes | changes)
    model = AutoModelForCausalLM.from_config(config).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2 if weight.ndim == 2 else 0.5)
    set_residual_dropout(model, 0.0)
    fuse_activations(model)
    if fused:
        fuse_layers(model)
    return model


def lowered():
    """Whether products are in bf16."""
    return torch.is_autocast_enabled("cpu")


def count_as_amx(monkeypatch):
    """Have this machine's instruction set be one with matrix units; kernels compute with any."""
    monkeypatch.setattr(layers, "_BF16_SETS", (layers.rk.current_isa(),))


@pytest.fixture(params=["fp32", "bf16"])
def either(request, monkeypatch):
    """The test runs in fp32, and in bf16 under autocast as if there were matrix units."""
    count_as_amx(monkeypatch)
    with torch.autocast("cpu", torch.bfloat16, enabled=request.param == "bf16"):
        yield


def take_from(monkeypatch, rows):
    """Have the kernels take so many rows in fp32."""
    monkeypatch.setattr(layers, "_ROWS", rows)


@pytest.fixture
def taken(monkeypatch):
    """Names of the kernels called, in order; they take few rows too."""
    take_from(monkeypatch, ((1 << 20, 1),))
    called = []

    def count(name):
        kernel = getattr(layers.rk, name)

        def counted(hidden, *weights, **settings):
            called.append(name)
            assert settings["bf16"] is (lowered() and layers.has_matrix_units())
            return kernel(hidden, *weights, **settings)

        monkeypatch.setattr(layers.rk, name, counted)

    for name in HALVES:
        count(name)
    return called


def passes(model, **given):
    """Hidden states of the read rows and the gradients of a function of them."""
    model.zero_grad()
    hidden = model.base_model(IDS, **{"use_cache": False} | given)[0]
    hidden.square().sum().backward()
    return hidden.detach(), [p.grad.clone() for p in model.base_model.parameters()]


def same_passes(ours, plain, **given):
    (hidden, grads), (wanted, wanted_grads) = passes(ours, **given), passes(plain, **given)
    close(hidden, wanted)
    for grad, want in zip(grads, wanted_grads, strict=True):
        if lowered():
            close(grad, want)
        else:
            assert (grad - want).abs().max() <= 1e-4 * want.abs().max()


def close(ours, wanted):
    """Assert that numbers are the same; in bf16 where the two ways round differs, by a little."""
    if lowered():
        assert ours.shape == wanted.shape
        assert (ours - wanted).float().norm() <= _LOWERED * wanted.float().norm()
    else:
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)

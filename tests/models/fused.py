"""A GPT-2 with and without its layers' kernels, and which of them were called."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from toolkit.models import layers
from toolkit.models.activation import fuse_activations
from toolkit.models.layers import fuse_layers
from toolkit.models.load import set_residual_dropout

IDS = torch.arange(44).view(4, 11) % 12
HALVES = ["self_attention", "feed_forward"]


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


@pytest.fixture
def taken(monkeypatch):
    """Names of the kernels called, in order; they take few rows too."""
    monkeypatch.setattr(layers, "_ROWS", ((1 << 20, 1),))
    called = []

    def count(name):
        kernel = getattr(layers.rk, name)

        def counted(hidden, *weights, **settings):
            called.append(name)
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
    torch.testing.assert_close(hidden, wanted, rtol=1e-4, atol=1e-5)
    for grad, want in zip(grads, wanted_grads, strict=True):
        assert (grad - want).abs().max() <= 1e-4 * want.abs().max()

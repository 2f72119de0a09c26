"""A GPT-2 that is read in one go, and which kernels were called."""

import pytest
import torch

from tests.models.fused import IDS, close, lowered, make, taken
from toolkit.models import layers, trunk
from toolkit.models.trunk import fuse_trunk, lay_out

__all__ = ["close", "taken"]

ALL = ["decoder_layers"]


def fused(**changes):
    model = make(**changes)
    fuse_trunk(model)
    return model


@pytest.fixture
def read(taken, monkeypatch):
    """As `taken`, with the kernel of all layers."""
    kernel = trunk.rk.decoder_layers

    def counted(hidden, *weights, **settings):
        taken.append("decoder_layers")
        assert settings["bf16"] is (lowered() and layers.has_matrix_units())
        return kernel(hidden, *weights, **settings)

    monkeypatch.setattr(trunk.rk, "decoder_layers", counted)
    return taken


def hidden_of(model, ids=IDS, **given):
    with torch.no_grad():
        return model.base_model(ids, **{"use_cache": False} | given)[0]


def copied(model):
    """Hold copies of its weights in the precision of now."""
    return lay_out(model, bf16=lowered())

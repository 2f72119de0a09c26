"""Feed-forwards whose last layer cannot be computed for some positions alone: all are refused."""

import pytest
import torch

from toolkit.models.last_layer import find_last_layer


def mlp_of(model):
    return model.transformer.h[-1].mlp


class Mixing(torch.nn.Module):
    """Sees the position before."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x + x.roll(1, -2))


def test_a_feed_forward_that_mixes_positions_is_refused(model):
    last = model.transformer.h[-1]
    last.mlp = Mixing(last.mlp)
    assert find_last_layer(model) is None
    assert not last.mlp._forward_pre_hooks


class Gated(torch.nn.Module):
    """Mixes positions as soon as training opens its gate, before or after `inner`."""

    def __init__(self, inner, *, before):
        super().__init__()
        self.inner, self.before = inner, before
        self.gate = torch.nn.Parameter(torch.zeros(()))

    def mix(self, x):
        return x + self.gate * x.roll(1, -2)

    def forward(self, x):
        return self.inner(self.mix(x)) if self.before else self.mix(self.inner(x))


@pytest.mark.parametrize("before", [True, False])
def test_one_that_does_not_mix_positions_yet_is_refused(model, before):
    last = model.transformer.h[-1]
    last.mlp = Gated(last.mlp, before=before)
    assert find_last_layer(model) is None
    assert not last.mlp._forward_pre_hooks
    assert not last.mlp._forward_hooks


def test_one_before_a_layer_that_mixes_positions_is_refused(model):
    """However little: with its weights as they are drawn, what is left out changes nothing."""
    trunk = model.transformer
    trunk.ln_f = Gated(trunk.ln_f, before=False)
    assert find_last_layer(model) is None
    assert not mlp_of(model)._forward_hooks


class Choosing(torch.nn.Module):
    """Knows how many positions the model was given."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) + x[torch.ones(2, 4, dtype=torch.bool)].sum()


class Counting(torch.nn.Module):
    """Its result depends on how many positions it is given."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return (1 + 0.01 * x.shape[-2]) * self.inner(x)


def test_one_that_counts_its_positions_is_refused(model):
    last = model.transformer.h[-1]
    last.mlp = Counting(last.mlp)
    assert find_last_layer(model) is None


@pytest.mark.parametrize("training", [True, False])
def test_the_trial_leaves_the_mode(model, training):
    model.train(training)
    assert find_last_layer(model) is not None
    assert model.training is model.transformer.h[0].training is training


def test_one_whose_error_is_about_an_index_is_refused(model):
    last = model.transformer.h[-1]
    last.mlp = Choosing(last.mlp)
    assert find_last_layer(model) is None


def test_one_that_does_nothing_cannot_be_tried(model):
    with torch.no_grad():
        mlp_of(model).c_proj.weight.zero_()
        mlp_of(model).c_proj.bias.zero_()
    assert find_last_layer(model) is None

"""lay_out_layers: copies that decoder_layers reads, to the same bits."""

import pytest
import torch

import rlhf_kernels as rk
from tests.ops.logits import isa
from tests.ops.sublayer import DTYPES, turned
from tests.ops.test_decoder_layers import lay, make_model

__all__ = ["isa"]

#: D, H, F of each layer: panels of 64 columns that are whole, and that are filled up.
SHAPES = [(64, 2, (128, 64)), (48, 4, (80, 208)), (80, 5, (16,)), (128, 4, (512, 512))]
MATRICES = {2: "in weight", 4: "out weight", 8: "up weight", 10: "down weight"}


def make_cache(layers, batch, heads, room, width, dtype):
    shape = (batch, heads, room, width // heads)
    return [tuple(torch.zeros(shape, dtype=dtype) for _ in range(2)) for _ in layers]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("width", "heads", "inners"), SHAPES)
def test_the_bits_are_those_of_the_weights_themselves(isa, width, heads, inners, dtype):
    hidden, layers = make_model(5, 7, width, inners, dtype)
    held = rk.lay_out_layers(layers)
    rows = torch.tensor([0, 3, 17, 34])
    for more in ({}, {"rows": rows}, {"starts": torch.tensor([0, 6, 2, 0, 1])}):
        settings = {"heads": heads, "scale": 0.4, "eps": 1e-3} | more
        wanted = rk.decoder_layers(hidden, layers, **settings)
        assert torch.equal(rk.decoder_layers(hidden, held, **settings), wanted)
    found = []
    for weights in (layers, held):
        cache = make_cache(layers, 5, heads, 7, width, dtype)
        parts = [rk.decoder_layers(hidden[:, :4], weights, heads=heads, cache=cache)]
        for used in (4, 5, 6):
            part = hidden[:, used : used + 1]
            out = rk.decoder_layers(part, weights, heads=heads, cache=cache, used=used)
            parts.append(out)
        found.append(torch.cat(parts, 1))
    assert torch.equal(*found)


def test_matrices_that_lie_by_columns_are_laid_out_as_those_by_rows():
    hidden, layers = make_model(2, 3, 48, (80,))
    one, other = rk.lay_out_layers(layers), rk.lay_out_layers(lay(layers, turned))
    assert all(torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True))
    wanted = rk.decoder_layers(hidden, layers, heads=4)
    assert torch.equal(rk.decoder_layers(hidden, other, heads=4), wanted)


def test_some_layers_may_be_laid_out_and_some_matrices():
    hidden, layers = make_model(2, 3, 64, (128, 64))
    held, wanted = rk.lay_out_layers(layers), rk.decoder_layers(hidden, layers, heads=2)
    for mixed in ([held[0], layers[1]], [(*layers[0][:8], *held[0][8:]), held[1]]):
        assert torch.equal(rk.decoder_layers(hidden, mixed, heads=2), wanted)


def test_a_matrix_lies_in_panels_of_64_columns():
    _, layers = make_model(1, 1, 48, (80,))
    (held,) = rk.lay_out_layers([[x.requires_grad_() for x in layers[0]]])
    for place, weight in enumerate(layers[0]):
        if place not in MATRICES:
            assert held[place] is weight
            continue
        size, columns = weight.shape
        panels = -(-columns // 64)
        assert held[place].shape == (panels, size, 64)
        assert not held[place].requires_grad
        whole = held[place].transpose(0, 1).reshape(size, 64 * panels)
        assert torch.equal(whole[:, :columns], weight)
        assert not whole[:, columns:].any()


def test_copies_stay_when_a_matrix_changes():
    hidden, layers = make_model(2, 3, 64, (64,))
    held, wanted = rk.lay_out_layers(layers), rk.decoder_layers(hidden, layers, heads=2)
    for place in MATRICES:
        layers[0][place].mul_(3.0)
    assert torch.equal(rk.decoder_layers(hidden, held, heads=2), wanted)
    assert not torch.equal(rk.decoder_layers(hidden, layers, heads=2), wanted)


@pytest.mark.parametrize("place", MATRICES)
def test_wrong_panels_are_refused_by_name(place):
    hidden, layers = make_model(2, 3, 64, (128,))
    (held,) = rk.lay_out_layers(layers)
    right = held[place]
    for wrong, problem in (
        (right.double(), "be float32, got float64"),
        (right[:, :-1].contiguous(), "have shape"),
        (right[..., :48].contiguous(), "have shape"),
        (torch.cat([right, right]), "have shape"),
    ):
        given = (*held[:place], wrong, *held[place + 1 :])
        match = f"'layer 0, {MATRICES[place]}' must {problem}"
        with pytest.raises(ValueError, match=match):
            rk.decoder_layers(hidden, [given], heads=2)

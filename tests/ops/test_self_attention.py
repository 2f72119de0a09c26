"""self_attention against float64, its gradient, and what a sequence's result depends on."""

import pytest
import torch
from torch.nn.functional import layer_norm, linear, scaled_dot_product_attention

import rlhf_kernels as rk
from rlhf_kernels.reference.self_attention import self_attention as reference
from tests.ops.helpers import both_passes
from tests.ops.logits import isa, with_threads
from tests.ops.sublayer import (
    DTYPES,
    assert_as_near_as_torch,
    make_inputs,
    same,
    spaced,
    turned,
)
from tests.tolerances import max_error

__all__ = ["isa"]

#: B, L, D, H: one position; rows below, at and past a tile of 6 and a piece of 48; sequences longer
#: than a piece; more rows than a stretch of 512; panels of 64 columns that are whole and that are
#: not; heads of one, odd and all features; weights of which pieces are long.
SHAPES = [
    (1, 1, 16, 1),
    (5, 1, 48, 3),
    (1, 5, 64, 64),
    (3, 2, 80, 16),
    (1, 7, 192, 6),
    (4, 11, 64, 2),
    (6, 8, 48, 4),
    (7, 7, 16, 2),
    (2, 49, 80, 5),
    (13, 40, 64, 4),
    (3, 200, 48, 3),
    (30, 21, 320, 10),
]


def make_layer(batch, length, width, dtype=torch.float32, seed=0):
    return make_inputs((batch, length, width), [(width, 3 * width), (width, width)], dtype, seed)


def attend(heads, **others):
    return lambda *leaves: rk.self_attention(*leaves, heads=heads, **others)


def truth(heads, **others):
    return lambda *leaves: reference(*leaves, heads=heads, **others)


def torchs(heads, scale=None):
    """The same from torch's own operators."""

    def call(hidden, norm_weight, norm_bias, in_weight, in_bias, out_weight, out_bias):
        normalized = layer_norm(hidden, hidden.shape[-1:], norm_weight, norm_bias)
        states = linear(normalized, in_weight.T, in_bias).chunk(3, dim=-1)
        parts = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in states)
        attended = scaled_dot_product_attention(*parts, is_causal=True, scale=scale)
        return hidden + linear(attended.transpose(1, 2).flatten(2), out_weight.T, out_bias)

    return call


def true_passes(function, inputs, upstream):
    return both_passes(function, [x.double() for x in inputs], upstream.double())


def check_passes(heads, inputs, upstream):
    got = both_passes(attend(heads), inputs, upstream)
    want = true_passes(truth(heads), inputs, upstream)
    assert_as_near_as_torch(got, want, both_passes(torchs(heads), inputs, upstream))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_both_passes_match_float64(isa, dtype, shape):
    *sizes, heads = shape
    check_passes(heads, *make_layer(*sizes, dtype))


def test_a_large_hidden_state_is_added_with_one_rounding(isa):
    """Some columns of a trained model's hidden states are hundreds of times the others."""
    inputs, _ = make_layer(6, 11, 192)
    inputs[0][..., 7] += 1000.0
    got, want, near = (f(6)(*inputs)[..., 7] for f in (attend, truth, torchs))
    assert max_error(got, want) <= 2 * max_error(near, want)


@pytest.mark.parametrize("offset", [100.0, -3e4])
def test_a_mean_far_from_zero_costs_no_more_than_in_torch(isa, offset):
    inputs, upstream = make_layer(4, 11, 80)
    inputs[0] += offset
    check_passes(5, inputs, upstream)


def test_scale_and_eps_are_those_of_the_formula(isa):
    inputs, upstream = make_layer(2, 9, 32, torch.float64)
    inputs[0] *= 1e-2
    for others in ({"scale": 0.0}, {"scale": -1.5}, {"scale": 3.0, "eps": 0.0}, {"eps": 0.5}):
        got = both_passes(attend(4, **others), inputs, upstream)
        want = both_passes(truth(4, **others), inputs, upstream)
        for ours, right in zip(got, want, strict=True):
            torch.testing.assert_close(ours, right, rtol=1e-11, atol=1e-11)


def test_large_scores_stay_finite(isa):
    inputs, upstream = make_layer(2, 37, 32)
    inputs[3] *= 100.0
    assert all(x.isfinite().all() for x in both_passes(attend(2), inputs, upstream))


def test_hidden_states_that_are_not_dense_equal_dense_ones():
    inputs, upstream = make_layer(3, 7, 48)
    want = both_passes(attend(3), inputs, upstream)
    for hidden in (
        inputs[0].transpose(0, 1).contiguous().transpose(0, 1),
        inputs[0].mT.contiguous().mT,
    ):
        assert not hidden.is_contiguous()
        assert same(both_passes(attend(3), [hidden, *inputs[1:]], upstream), want)
    sideways = upstream.mT.contiguous().mT
    assert same(both_passes(attend(3), inputs, sideways), want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 7, 48), (3, 50, 80), (13, 40, 64)])
@pytest.mark.parametrize("lay", [turned, spaced])
def test_weights_that_lie_otherwise_equal_dense_ones(isa, lay, shape, dtype):
    inputs, upstream = make_layer(*shape, dtype)
    laid = lay(inputs)
    assert not laid[3].is_contiguous()
    got = both_passes(attend(2), laid, upstream)
    assert [x.shape for x in got[1:]] == [x.shape for x in inputs]
    assert same(got, both_passes(attend(2), inputs, upstream))


def test_a_linear_layers_weight_gets_a_gradient_of_its_own_shape():
    inputs, upstream = make_layer(2, 9, 80)
    into, out = (x.T.contiguous().requires_grad_() for x in (inputs[3], inputs[5]))
    made = rk.self_attention(*inputs[:3], into.T, inputs[4], out.T, inputs[6], heads=5)
    made.backward(upstream)
    want = both_passes(attend(5), inputs, upstream)
    assert torch.equal(into.grad, want[4].T)
    assert torch.equal(out.grad, want[6].T)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sequence_does_not_depend_on_the_batch_or_the_threads(isa, dtype):
    inputs, upstream = make_layer(61, 11, 80, dtype)
    got = with_threads(1, lambda: both_passes(attend(5), inputs, upstream))
    again = with_threads(3, lambda: both_passes(attend(5), inputs, upstream))
    assert same(got, again)
    for part in (slice(0, 1), slice(17, 20), slice(30, 61)):
        alone = both_passes(attend(5), [inputs[0][part], *inputs[1:]], upstream[part])
        assert same(alone[:2], [x[part] for x in got[:2]])


def test_a_position_does_not_depend_on_those_after_it(isa):
    inputs, _ = make_layer(2, 130, 64)
    whole = rk.self_attention(*inputs, heads=4)
    for length in (1, 5, 6, 7, 16, 48, 49, 129):
        start = rk.self_attention(inputs[0][:, :length], *inputs[1:], heads=4)
        assert torch.equal(start, whole[:, :length])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("position", [0, 5, 9, 22])
def test_a_position_that_is_no_number_spoils_those_after_it_alone(isa, dtype, bad, position):
    """Its gradient reaches those before it, as they are what it saw; no other sequence."""
    inputs, upstream = make_layer(5, 23, 48, dtype)
    clean = both_passes(attend(3), inputs, upstream)
    others = [0, 1, 3, 4]
    inputs[0][2, position, 3] = bad
    out, grad, *_ = both_passes(attend(3), inputs, upstream)
    for found, right in ((out, clean[0]), (grad, clean[1])):
        assert torch.equal(found[others], right[others])
        assert found[2, position:].isnan().all()
    assert torch.equal(out[2, :position], clean[0][2, :position])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("position", [0, 5, 9, 22])
def test_a_gradient_that_is_no_number_spoils_what_its_position_saw_alone(isa, dtype, position):
    inputs, upstream = make_layer(5, 23, 48, dtype)
    clean = both_passes(attend(3), inputs, upstream)
    upstream[2, position, 3] = torch.nan
    out, grad, *_ = both_passes(attend(3), inputs, upstream)
    assert torch.equal(out, clean[0])
    assert torch.equal(grad[[0, 1, 3, 4]], clean[1][[0, 1, 3, 4]])
    assert torch.equal(grad[2, position + 1 :], clean[1][2, position + 1 :])
    assert grad[2, : position + 1].isnan().all()

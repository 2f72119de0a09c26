"""feed_forward against float64, its gradient, and what a row's result depends on."""

import pytest
import torch
from torch.nn.functional import gelu, layer_norm

import rlhf_kernels as rk
from rlhf_kernels.reference.feed_forward import feed_forward as reference
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

#: N, D, F: one row; below, at and past a tile of 6 rows and a piece of 48; more than one stretch of
#: 512 rows; panels of 64 columns that are whole and that are not; weights of which pieces are long.
SHAPES = [
    (1, 16, 16),
    (5, 48, 64),
    (6, 64, 80),
    (7, 80, 192),
    (47, 192, 48),
    (48, 64, 64),
    (49, 16, 192),
    (97, 80, 48),
    (520, 64, 80),
    (1030, 48, 16),
    (200, 192, 1408),
]


def make_layer(rows, width, inner, dtype=torch.float32, seed=0):
    return make_inputs((rows, width), [(width, inner), (inner, width)], dtype, seed)


def torchs(hidden, norm_weight, norm_bias, up_weight, up_bias, down_weight, down_bias):
    normalized = layer_norm(hidden, hidden.shape[-1:], norm_weight, norm_bias)
    inner = gelu(torch.addmm(up_bias, normalized, up_weight), approximate="tanh")
    return hidden + torch.addmm(down_bias, inner, down_weight)


def true_passes(function, inputs, upstream):
    return both_passes(function, [x.double() for x in inputs], upstream.double())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_both_passes_match_float64(isa, dtype, shape):
    inputs, upstream = make_layer(*shape, dtype)
    got = both_passes(rk.feed_forward, inputs, upstream)
    want = true_passes(reference, inputs, upstream)
    near = both_passes(torchs, inputs, upstream)
    assert_as_near_as_torch(got, want, near)


def test_rows_may_have_several_dimensions(isa):
    inputs, upstream = make_layer(24, 48, 80)
    want = both_passes(rk.feed_forward, inputs, upstream)
    for sizes in ((2, 3, 4, 48), (24, 1, 48)):
        shaped = [inputs[0].view(sizes), *inputs[1:]]
        got = both_passes(rk.feed_forward, shaped, upstream.view(sizes))
        assert got[0].shape == got[1].shape == sizes
        assert same([x.view(24, 48) for x in got[:2]], want[:2])
        assert same(got[2:], want[2:])


def test_one_row_without_a_dimension_of_rows(isa):
    inputs, _ = make_layer(1, 48, 80)
    out = rk.feed_forward(inputs[0][0], *inputs[1:])
    assert torch.equal(out, rk.feed_forward(*inputs)[0])


def test_eps_is_added_to_the_variance(isa):
    inputs, _ = make_layer(7, 32, 32, torch.float64)
    inputs[0] *= 1e-3
    for eps in (0.0, 1e-6, 0.5):
        got = rk.feed_forward(*inputs, eps=eps)
        torch.testing.assert_close(got, reference(*inputs, eps=eps), rtol=0, atol=1e-13)


@pytest.mark.parametrize("offset", [100.0, -3e4])
def test_a_mean_far_from_zero_costs_no_more_than_in_torch(isa, offset):
    inputs, upstream = make_layer(20, 80, 64)
    inputs[0] += offset
    got = both_passes(rk.feed_forward, inputs, upstream)
    want = true_passes(reference, inputs, upstream)
    assert_as_near_as_torch(got, want, both_passes(torchs, inputs, upstream))


def test_a_large_hidden_state_is_added_with_one_rounding(isa):
    """Some columns of a trained model's hidden states are hundreds of times the others."""
    inputs, _ = make_layer(60, 80, 192)
    inputs[0][:, 7] += 1000.0
    got, want, near = (f(*inputs)[:, 7] for f in (rk.feed_forward, reference, torchs))
    assert max_error(got, want) <= 2 * max_error(near, want)


def test_hidden_states_that_are_not_dense_equal_dense_ones():
    inputs, upstream = make_layer(12, 48, 80)
    want = both_passes(rk.feed_forward, inputs, upstream)
    wide = torch.full((12, 50), torch.nan)
    wide[:, 1:49] = inputs[0]
    for hidden in (wide[:, 1:49], inputs[0].T.contiguous().T):
        assert not hidden.is_contiguous()
        assert same(both_passes(rk.feed_forward, [hidden, *inputs[1:]], upstream), want)
    sideways = upstream.T.contiguous().T
    assert same(both_passes(rk.feed_forward, inputs, sideways), want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 48, 80), (130, 80, 48), (520, 64, 128)])
@pytest.mark.parametrize("lay", [turned, spaced])
def test_weights_that_lie_otherwise_equal_dense_ones(isa, lay, shape, dtype):
    inputs, upstream = make_layer(*shape, dtype)
    laid = lay(inputs)
    assert not laid[3].is_contiguous()
    got = both_passes(rk.feed_forward, laid, upstream)
    assert [x.shape for x in got[1:]] == [x.shape for x in inputs]
    assert same(got, both_passes(rk.feed_forward, inputs, upstream))


def test_a_linear_layers_weight_gets_a_gradient_of_its_own_shape():
    inputs, upstream = make_layer(9, 32, 80)
    up, down = (x.T.contiguous().requires_grad_() for x in (inputs[3], inputs[5]))
    out = rk.feed_forward(*inputs[:3], up.T, inputs[4], down.T, inputs[6])
    out.backward(upstream)
    want = both_passes(rk.feed_forward, inputs, upstream)
    assert torch.equal(up.grad, want[4].T)
    assert torch.equal(down.grad, want[6].T)


def fed(rows):
    return lambda *leaves: rk.feed_forward(*leaves, rows=rows)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chosen", [False, True])
def test_a_row_does_not_depend_on_the_batch_or_the_threads(isa, dtype, chosen):
    inputs, upstream = make_layer(421, 80, 208, dtype)
    rows = torch.randperm(421, generator=torch.Generator().manual_seed(1))[:333] if chosen else None
    got = with_threads(1, lambda: both_passes(fed(rows), inputs, upstream))
    again = with_threads(3, lambda: both_passes(fed(rows), inputs, upstream))
    assert same(got, again)
    for part in (slice(0, 1), slice(17, 22), slice(300, 421)):
        own = None
        if chosen:
            own = rows[(rows >= part.start) & (rows < part.stop)] - part.start
        alone = both_passes(fed(own), [inputs[0][part], *inputs[1:]], upstream[part])
        assert same(alone[:2], [x[part] for x in got[:2]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 6, 49, 60])
def test_chosen_rows_alone_go_through(isa, dtype, count):
    inputs, upstream = make_layer(60, 48, 80, dtype)
    rows = torch.randperm(60, generator=torch.Generator().manual_seed(2))[:count]
    others = torch.ones(60, dtype=torch.bool).index_fill(0, rows, False)

    def truth(*leaves):
        return reference(*leaves, rows=rows)

    def near(hidden, *weights):
        return hidden.index_put((rows,), torchs(hidden[rows], *weights))

    got = both_passes(fed(rows), inputs, upstream)
    want = true_passes(truth, inputs, upstream)
    assert_as_near_as_torch(got, want, both_passes(near, inputs, upstream))
    assert torch.equal(got[0][others], inputs[0][others])
    assert torch.equal(got[1][others], upstream[others])
    assert torch.equal(got[0][rows], rk.feed_forward(*inputs)[rows])


def test_rows_count_over_all_dimensions_before_the_last(isa):
    inputs, _ = make_layer(12, 16, 32)
    rows = torch.tensor([11, 0, 5])
    flat = rk.feed_forward(*inputs, rows=rows)
    shaped = rk.feed_forward(inputs[0].view(3, 4, 16), *inputs[1:], rows=rows)
    assert torch.equal(shaped.view(12, 16), flat)


@pytest.mark.parametrize(("count", "chosen"), [(5, 0), (0, None), (0, 0)])
def test_without_rows_nothing_changes_and_weights_have_no_gradient(isa, count, chosen):
    inputs, upstream = make_layer(count, 48, 80)
    rows = None if chosen is None else torch.empty(chosen, dtype=torch.int64)
    torch.full((1 << 16,), torch.nan)  # memory that the gradients may get
    got = both_passes(fed(rows), inputs, upstream)
    assert torch.equal(got[0], inputs[0])
    assert torch.equal(got[1], upstream)
    assert [x.shape for x in got[2:]] == [x.shape for x in inputs[1:]]
    assert all(not x.any() for x in got[2:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("row", [0, 8, 48, 59])
def test_a_row_that_is_no_number_spoils_itself_alone(isa, dtype, bad, row):
    inputs, upstream = make_layer(60, 48, 80, dtype)
    clean = both_passes(rk.feed_forward, inputs, upstream)
    others = [i for i in range(60) if i != row]
    for spoilt in (inputs[0], upstream):
        before = spoilt[row].clone()
        spoilt[row] = bad
        out, grad, *_ = both_passes(rk.feed_forward, inputs, upstream)
        spoilt[row] = before
        assert torch.equal(out[others], clean[0][others])
        assert torch.equal(grad[others], clean[1][others])
        assert grad[row].isnan().any()
        assert out[row].isnan().all() == (spoilt is not upstream)

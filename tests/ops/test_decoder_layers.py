"""decoder_layers in whole passes: against float64, against its halves, and what it depends on.

With a cache: test_decoder_layers_cache.py.
"""

import pytest
import torch
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention

import rlhf_kernels as rk
from rlhf_kernels.reference.decoder_layers import decoder_layers as reference
from tests.ops.logits import isa, with_threads
from tests.ops.sublayer import DTYPES, assert_as_near_as_torch, make_inputs, same, spaced, turned
from tests.tolerances import max_error

__all__ = ["isa"]

#: B, L, D, H, inner columns of each layer: one position; rows below, at and past a tile of 6;
#: sequences longer than the 96 rows that go through a layer together, and more than those; panels
#: of 64 columns that are whole and that are not; heads of 12, 5, 1, 40, 64 and whole vectors.
SHAPES = [
    (1, 1, 48, 4, (64,)),
    (3, 5, 80, 16, (48, 208)),
    (2, 6, 64, 1, (80, 16)),
    (9, 13, 128, 4, (512, 512, 512)),
    (2, 130, 48, 4, (192, 192)),
    (1, 13, 80, 2, (320,)),
    (25, 5, 64, 64, (128,)),
    (101, 1, 64, 2, (256, 64)),
]
ops = torch.ops.rlhf_kernels


def make_model(batch, length, width, inners, dtype=torch.float32, seed=0):
    """Hidden states, and layers with so many inner columns."""
    hidden, layers = None, []
    for place, inner in enumerate(inners):
        first, _ = make_inputs(
            (batch, length, width), [(width, 3 * width), (width, width)], dtype, seed + 2 * place
        )
        second, _ = make_inputs(
            (1, width), [(width, inner), (inner, width)], dtype, seed + 2 * place + 1
        )
        hidden = first[0] if hidden is None else hidden
        layers.append([*first[1:], *second[1:]])
    return hidden, layers


def flat(lists):
    return [x for each in lists for x in each]


def lay(layers, how):
    """Weights as `turned` or `spaced` lay them."""
    return [how([None, *layer])[1:] for layer in layers]


def affine(x, weight, bias):
    return linear(x, weight.T, bias)


def torchs(
    hidden, layers, *, heads, scale=None, eps=1e-5, cache=(), used=0, rows=None, affine=affine
):
    """The same from torch's own operators; a cache is read alone."""
    x = hidden
    for place, layer in enumerate(layers):
        norm_weight, norm_bias, in_weight, in_bias, out_weight, out_bias = layer[:6]
        normalized = layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps)
        states = affine(normalized, in_weight, in_bias).chunk(3, dim=-1)
        query, *parts = (y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in states)
        if used:
            held = (y[:, :, :used] for y in cache[place])
            parts = [torch.cat(pair, 2) for pair in zip(held, parts, strict=True)]
        attended = scaled_dot_product_attention(query, *parts, is_causal=not used, scale=scale)
        x = x + affine(attended.transpose(1, 2).flatten(2), out_weight, out_bias)
        norm_weight, norm_bias, up_weight, up_bias, down_weight, down_bias = layer[6:]
        normalized = layer_norm(x, x.shape[-1:], norm_weight, norm_bias, eps)
        inner = gelu(affine(normalized, up_weight, up_bias), approximate="tanh")
        fed = x + affine(inner, down_weight, down_bias)
        if rows is not None and place == len(layers) - 1:
            x = x.flatten(0, 1).index_copy(0, rows, fed.flatten(0, 1)[rows]).view_as(x)
        else:
            x = fed
    return x


def chain(hidden, layers, heads, *, scale=None, eps=1e-5, rows=None):
    """The same from the ops of a layer's halves, and the states of each layer."""
    factor = (hidden.shape[-1] // heads) ** -0.5 if scale is None else scale
    kept = []
    for place, layer in enumerate(layers):
        fed = rows if place == len(layers) - 1 else None
        hidden, states, _ = ops.self_attention(hidden, *layer[:6], heads, factor, eps, False)
        hidden = rk.feed_forward(hidden, *layer[6:], eps=eps, rows=fed)
        kept.append(states)
    return hidden, kept


def check_near(hidden, layers, **settings):
    """The truth rule, on a call that may have a cache."""
    want = reference(hidden, layers, **settings)
    near = torchs(hidden, layers, **settings)
    assert_as_near_as_torch([rk.decoder_layers(hidden, layers, **settings)], [want], [near])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_whole_pass_matches_float64(isa, dtype, shape):
    *sizes, heads, inners = shape
    check_near(*make_model(*sizes, inners, dtype), heads=heads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_whole_pass_has_the_bits_of_its_halves(isa, dtype, shape):
    *sizes, heads, inners = shape
    hidden, layers = make_model(*sizes, inners, dtype)
    want, _ = chain(hidden, layers, heads)
    assert torch.equal(rk.decoder_layers(hidden, layers, heads=heads), want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [[], [64], [0, 1, 12, 13, 38, 39, 63], list(range(3, 65, 2))])
def test_rows_alone_go_through_the_last_feed_forward(isa, dtype, rows):
    hidden, layers = make_model(5, 13, 80, (48, 96), dtype)
    rows = torch.tensor(rows, dtype=torch.int64)
    got = rk.decoder_layers(hidden, layers, heads=5, rows=rows)
    assert torch.equal(got, chain(hidden, layers, 5, rows=rows)[0])
    check_near(hidden, layers, heads=5, rows=rows)


def test_rows_beyond_those_that_go_together_keep_their_numbers(isa):
    hidden, layers = make_model(40, 7, 48, (64,))
    rows = torch.arange(6, 280, 7)
    got = rk.decoder_layers(hidden, layers, heads=4, rows=rows)
    assert torch.equal(got, chain(hidden, layers, 4, rows=rows)[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("how", [turned, spaced])
def test_weights_that_lie_otherwise_equal_dense_ones(isa, how, dtype):
    hidden, layers = make_model(7, 13, 80, (48, 208), dtype)
    laid = lay(layers, how)
    assert not any(laid[1][place].is_contiguous() for place in (2, 4, 8, 10))
    got = rk.decoder_layers(hidden, laid, heads=5)
    assert torch.equal(got, rk.decoder_layers(hidden, layers, heads=5))


def test_hidden_states_that_are_not_dense_equal_dense_ones():
    hidden, layers = make_model(3, 7, 48, (64,))
    want = rk.decoder_layers(hidden, layers, heads=3)
    for other in (hidden.transpose(0, 1).contiguous().transpose(0, 1), hidden.mT.contiguous().mT):
        assert not other.is_contiguous()
        assert torch.equal(rk.decoder_layers(other, layers, heads=3), want)


def test_the_arguments_are_left_as_they_are():
    hidden, layers = make_model(3, 7, 48, (64, 32))
    given = [hidden, *flat(layers)]
    before = [x.clone() for x in given]
    rk.decoder_layers(hidden, layers, heads=3)
    assert same(given, before)


@pytest.mark.parametrize(
    "settings",
    [{"scale": 0.0}, {"scale": -1.5}, {"scale": 3.0, "eps": 0.0}, {"eps": 0.5}],
    ids=str,
)
def test_scale_and_eps_are_those_of_the_formula(isa, settings):
    hidden, layers = make_model(2, 9, 32, (48, 16), torch.float64)
    hidden *= 1e-2
    got = rk.decoder_layers(hidden, layers, heads=4, **settings)
    want = reference(hidden, layers, heads=4, **settings)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
    plain = rk.decoder_layers(hidden, layers, heads=4)
    assert max_error(got, plain) > 1e-3  # so each of them is seen


def test_a_large_hidden_state_is_added_with_one_rounding(isa):
    """Some columns of a trained model's hidden states are hundreds of times the others."""
    hidden, layers = make_model(6, 11, 128, (192,))
    hidden[..., 7] += 1000.0
    got, want, near = (
        f(hidden, layers, heads=4)[..., 7] for f in (rk.decoder_layers, reference, torchs)
    )
    assert max_error(got, want) <= 2 * max_error(near, want)


def pad(hidden, starts, filler):
    """The same sequences with their last positions kept, and a filler before them."""
    before = torch.arange(hidden.shape[1])[None, :, None] < starts[:, None, None]
    return torch.where(before, torch.tensor(filler, dtype=hidden.dtype), hidden)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("filler", [0.0, 1e30, torch.inf, torch.nan])
def test_a_padded_sequence_has_the_bits_that_it_has_alone(isa, dtype, filler):
    hidden, layers = make_model(5, 23, 80, (48, 96), dtype)
    starts = torch.tensor([0, 22, 5, 6, 13])
    got = rk.decoder_layers(pad(hidden, starts, filler), layers, heads=16, starts=starts)
    for sequence, start in enumerate(starts.tolist()):
        alone = rk.decoder_layers(hidden[sequence : sequence + 1, start:], layers, heads=16)
        assert torch.equal(got[sequence, start:], alone[0])


def test_rows_of_padded_sequences_count_from_the_start_of_the_padding(isa):
    hidden, layers = make_model(4, 11, 64, (80, 48), torch.float64)
    starts, rows = torch.tensor([3, 0, 10, 6]), torch.tensor([3, 10, 11, 20, 32, 39, 43])
    settings = {"heads": 4, "starts": starts, "rows": rows}
    got = rk.decoder_layers(hidden, layers, **settings)
    want = reference(hidden, layers, **settings)
    there = torch.arange(11) >= starts[:, None]
    assert torch.equal(want.isfinite().all(-1), there)
    torch.testing.assert_close(got[there], want[there], rtol=0, atol=1e-11)


def test_starts_of_zero_change_nothing(isa):
    hidden, layers = make_model(4, 11, 64, (80,))
    got = rk.decoder_layers(hidden, layers, heads=2, starts=torch.zeros(4, dtype=torch.int64))
    assert torch.equal(got, rk.decoder_layers(hidden, layers, heads=2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sequence_does_not_depend_on_the_batch_or_the_threads(isa, dtype):
    hidden, layers = make_model(61, 11, 80, (96, 64), dtype)

    def call(part=slice(None)):
        return rk.decoder_layers(hidden[part], layers, heads=5)

    got = with_threads(1, call)
    assert torch.equal(with_threads(3, call), got)
    for part in (slice(0, 1), slice(17, 20), slice(30, 61)):
        assert torch.equal(call(part), got[part])


def test_a_position_does_not_depend_on_those_after_it(isa):
    hidden, layers = make_model(2, 130, 64, (96, 64))
    whole = rk.decoder_layers(hidden, layers, heads=4)
    for length in (1, 5, 6, 7, 16, 48, 49, 95, 96, 97, 129):
        start = rk.decoder_layers(hidden[:, :length], layers, heads=4)
        assert torch.equal(start, whole[:, :length])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("position", [0, 5, 9, 22])
def test_a_position_that_is_no_number_spoils_those_after_it_alone(isa, dtype, bad, position):
    hidden, layers = make_model(5, 23, 48, (64, 80), dtype)
    clean = rk.decoder_layers(hidden, layers, heads=3)
    hidden[2, position, 3] = bad
    out = rk.decoder_layers(hidden, layers, heads=3)
    others = [0, 1, 3, 4]
    assert torch.equal(out[others], clean[others])
    assert torch.equal(out[2, :position], clean[2, :position])
    assert out[2, position:].isnan().all()


@pytest.mark.parametrize("sizes", [(0, 3), (2, 0), (0, 0)])
def test_without_positions_there_is_no_result(isa, sizes):
    hidden, layers = make_model(*sizes, 48, (64,))
    assert rk.decoder_layers(hidden, layers, heads=3).shape == (*sizes, 48)


def test_torchs_operators_are_the_formula():
    """What the bounds of the other tests come from."""
    hidden, layers = make_model(2, 9, 32, (48, 16), torch.float64)
    settings = {"heads": 4, "scale": 0.3, "eps": 0.1, "rows": torch.tensor([3, 17])}
    got, want = (f(hidden, layers, **settings) for f in (torchs, reference))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-11)

"""Layers with products in bfloat16: against float64 with rounded factors, in both passes.

To the bit, on whole numbers: test_layers_bf16_exact.py. What a result depends on, and what is
refused: test_layers_bf16_contract.py.
"""

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.ops import decoder_layers
from tests.ops.helpers import both_passes
from tests.ops.rounded import Product, assert_rounded, fed, isa, passes, rounded
from tests.ops.sublayer import make_inputs, turned
from tests.ops.test_decoder_layers import flat, lay, make_model, torchs
from tests.ops.test_decoder_layers_cache import copy_cache, fill_cache, generate, make_cache

__all__ = ["isa"]

#: B, L, D, H, inner columns of each layer: depths of 16, 48 and 80 that are no multiple of 32;
#: columns that fill a panel of 64 and that do not; rows below, at and past tiles of 6, 16 and 32
#: rows and pieces of 128; sequences longer than the rows that go through a layer together.
SHAPES = [
    (5, 11, 48, 4, (80, 400)),
    (33, 11, 64, 4, (256, 80)),
    (4, 29, 128, 4, (400,)),
    (2, 127, 96, 2, (400,)),
    (1, 2, 384, 6, (1536,)),
    (2, 11, 384, 6, (80,)),
]
#: Few numbers, none of which lies near a middle of two bfloat16.
SMALL = [(1, 1, 16, 1, (80,)), (3, 2, 16, 1, (16,)), (33, 1, 64, 4, (80,))]
HOW = [list, turned]


def truths(hidden, layers, **settings):
    """Results and gradients in float64, with rounded factors and with exact ones."""
    return [passes(f, hidden.double(), layers, **settings) for f in (rounded, torchs)]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("shape", [*SMALL, *SHAPES], ids=str)
def test_both_passes_are_those_of_rounded_factors(isa, shape, how):
    *sizes, heads, inners = shape
    hidden, layers = make_model(*sizes, inners)
    got = passes(rk.decoder_layers, hidden, lay(layers, how), heads=heads, bf16=True)
    share = 0.0 if shape in SMALL else 1 / 3
    assert_rounded(got, *truths(hidden, layers, heads=heads), share)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_bounds_refuse_products_that_are_not_rounded(shape):
    *sizes, heads, inners = shape
    hidden, layers = make_model(*sizes, inners)
    got = passes(rk.decoder_layers, hidden, layers, heads=heads)
    want = truths(hidden, layers, heads=heads)
    for place in range(len(got) - 1):  # the last bias has the sums of what comes from above
        with pytest.raises(AssertionError, match="error"):
            assert_rounded(*([x[place]] for x in (got, *want)))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("rows", [[0], [3, 4, 50], list(range(1, 55, 2))], ids=len)
def test_both_passes_of_some_rows_are_those_of_rounded_factors(isa, rows, how):
    hidden, layers = make_model(5, 11, 48, (80, 400))
    settings = {"heads": 4, "rows": torch.tensor(rows)}
    got = passes(rk.decoder_layers, hidden, lay(layers, how), bf16=True, **settings)
    assert_rounded(got, *truths(hidden, layers, **settings))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("count", [None, 1, 17, 150])
@pytest.mark.parametrize(("width", "inner"), [(16, 80), (96, 400), (384, 48)])
def test_a_feed_forward_of_chosen_rows_is_that_of_rounded_factors(isa, width, inner, count, how):
    """Whose rows are in no order."""
    inputs, upstream = make_inputs((157, width), [(width, inner), (inner, width)])
    rows = None if count is None else torch.arange(0, 157 * 41, 41)[:count] % 157
    got = both_passes(
        lambda *leaves: rk.feed_forward(*leaves, rows=rows, bf16=True), how(inputs), upstream
    )
    want, exact = (
        both_passes(
            lambda *leaves, product=product: fed(product)(*leaves, rows=rows),
            [x.double() for x in inputs],
            upstream.double(),
        )
        for product in (Product.apply, torch.matmul)
    )
    assert_rounded(got, want, exact)


@pytest.mark.parametrize("laid", [False, True])
@pytest.mark.parametrize(("width", "heads"), [(16, 1), (48, 4), (128, 4)])
@pytest.mark.parametrize(("batch", "used"), [(1, 1), (7, 64), (33, 130)])
def test_a_step_with_a_cache_is_that_of_rounded_factors(isa, width, heads, batch, used, laid):
    hidden, layers = make_model(batch, 1, width, (80, 48))
    cache = make_cache(layers, batch, heads, used + 3, width)
    fill_cache(cache, used)
    wide = [[x.double() for x in layer] for layer in layers]
    held = [tuple(x.double() for x in pair) for pair in cache]
    want, exact = (
        f(hidden.double(), wide, heads=heads, cache=held, used=used) for f in (rounded, torchs)
    )
    given = rk.lay_out_layers(layers, bf16=True) if laid else layers
    own = copy_cache(cache)
    got = rk.decoder_layers(hidden, given, heads=heads, cache=own, used=used, bf16=True)
    assert_rounded([got], [want], [exact])
    for x in flat(own):  # its own place is written, and no other
        assert x[:, :, used].isfinite().all()
        x[:, :, used] = torch.nan
    for x, before in zip(flat(own), flat(cache), strict=True):
        torch.testing.assert_close(x, before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("prompt", [1, 6, 12])
def test_steps_after_a_prompt_are_those_of_a_whole_pass(isa, prompt):
    hidden, layers = make_model(3, 13, 48, (64, 48))
    cache = make_cache(layers, 3, 4, 16, 48)
    held = rk.lay_out_layers(layers, bf16=True)
    got = generate(hidden, held, 4, cache, prompt, bf16=True)
    wide = [[x.double() for x in layer] for layer in layers]
    want, exact = (f(hidden.double(), wide, heads=4) for f in (rounded, torchs))
    assert_rounded([got], [want], [exact])


def test_layers_that_are_differentiated_one_by_one_have_the_same_bits(isa, monkeypatch):
    hidden, layers = make_model(5, 11, 48, (80, 400))
    settings = {"heads": 4, "rows": torch.tensor([2, 9, 33]), "bf16": True}
    want = passes(rk.decoder_layers, hidden, layers, **settings)
    monkeypatch.setattr(decoder_layers, "MOST", 0)
    got = passes(rk.decoder_layers, hidden, layers, **settings)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))

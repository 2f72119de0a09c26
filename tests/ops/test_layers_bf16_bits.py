"""What a result of layers in bfloat16 depends on, to the bit; and what spoils it."""

import pytest
import torch

import rlhf_kernels as rk
from tests.ops.helpers import both_passes
from tests.ops.logits import with_threads
from tests.ops.rounded import isa, passes
from tests.ops.sublayer import make_inputs, same, turned
from tests.ops.test_decoder_layers import flat, lay, make_model, pad
from tests.ops.test_decoder_layers_cache import (
    assert_same_cache,
    check_steps_of_a_sequence,
    generate,
    make_cache,
)

__all__ = ["isa"]

#: B, L, D, H, inner columns of each layer.
SHAPES = [
    (5, 11, 16, 1, (80,)),
    (33, 1, 48, 4, (400, 16)),
    (7, 29, 64, 4, (256, 80)),
    (2, 127, 96, 2, (400,)),
    (3, 2, 384, 6, (1536, 80)),
]


def held_layers(layers):
    return rk.lay_out_layers(layers, bf16=True)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_layers_that_are_laid_out_or_turned_or_differentiated_have_the_same_bits(isa, shape):
    *sizes, heads, inners = shape
    hidden, layers = make_model(*sizes, inners)
    rows = torch.arange(0, sizes[0] * sizes[1], 3)
    for more in ({}, {"rows": rows}, {"rows": rows[:0]}, {"scale": 0.3, "eps": 1e-3}):
        settings = {"heads": heads, "bf16": True, **more}
        want = rk.decoder_layers(hidden, layers, **settings)
        for others in (held_layers(layers), lay(layers, turned), held_layers(lay(layers, turned))):
            assert torch.equal(rk.decoder_layers(hidden, others, **settings), want)
        assert torch.equal(passes(rk.decoder_layers, hidden, layers, **settings)[0], want)
        assert not torch.equal(
            rk.decoder_layers(hidden, layers, **settings | {"bf16": False}), want
        )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_layers_are_their_halves_to_the_bit_in_both_passes(isa, shape):
    *sizes, heads, inners = shape
    hidden, layers = make_model(*sizes, inners)

    def halves(x, layers, bf16):
        for own in layers:
            x = rk.self_attention(x, *own[:6], heads=heads, bf16=bf16)
            x = rk.feed_forward(x, *own[6:], bf16=bf16)
        return x

    got = passes(rk.decoder_layers, hidden, layers, heads=heads, bf16=True)
    assert same(got, passes(halves, hidden, layers, bf16=True))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_sequence_does_not_depend_on_the_batch(isa, shape):
    """Its result and its own gradient."""
    *sizes, heads, inners = shape
    hidden, layers = make_model(*sizes, inners)
    settings = {"heads": heads, "bf16": True}
    leaf = hidden.clone().requires_grad_()
    out = rk.decoder_layers(leaf, layers, **settings)
    (grad,) = torch.autograd.grad(out.square().sum(), leaf)
    for part in (slice(0, 1), slice(1, 3), slice(sizes[0] // 2, None)):
        own = hidden[part].clone().requires_grad_()
        alone = rk.decoder_layers(own, layers, **settings)
        assert torch.equal(alone, out[part])
        assert torch.equal(torch.autograd.grad(alone.square().sum(), own)[0], grad[part])
        with torch.no_grad():
            held = rk.decoder_layers(hidden[part], held_layers(layers), **settings)
        assert torch.equal(held, out[part])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_results_and_gradients_do_not_depend_on_the_threads(isa, shape):
    *sizes, heads, inners = shape
    hidden, layers = make_model(*sizes, inners)

    def call():
        return passes(rk.decoder_layers, hidden, layers, heads=heads, bf16=True)

    want = with_threads(1, call)
    for threads in (2, 3):
        assert same(with_threads(threads, call), want)


def test_the_gradients_of_many_rows_do_not_depend_on_the_threads(isa):
    inputs, upstream = make_inputs((530, 48), [(48, 400), (400, 48)])
    rows = torch.randperm(530, generator=torch.Generator().manual_seed(0))[:301]

    def call():
        return both_passes(
            lambda *leaves: rk.feed_forward(*leaves, rows=rows, bf16=True), inputs, upstream
        )

    assert same(with_threads(1, call), with_threads(2, call))


@pytest.mark.parametrize("filler", [0.0, 1e30, torch.inf, torch.nan])
def test_a_padded_sequence_generates_the_bits_that_it_does_alone(isa, filler):
    hidden, layers = make_model(4, 17, 48, (80, 96))
    held, starts = held_layers(layers), torch.tensor([0, 10, 5, 6])
    cache = make_cache(layers, 4, 4, 18, 48)
    padded = pad(hidden, starts, filler)
    got = generate(padded, held, 4, cache, 11, starts=starts, bf16=True)
    for b, start in enumerate(starts.tolist()):
        own = make_cache(layers, 1, 4, 18 - start, 48)
        alone = generate(hidden[b : b + 1, start:], layers, 4, own, 11 - start, bf16=True)
        assert torch.equal(got[b, start:], alone[0])
        assert_same_cache([tuple(x[b : b + 1, :, start:] for x in pair) for pair in cache], own)


def test_a_sequences_steps_do_not_depend_on_the_batch_or_the_threads(isa):
    check_steps_of_a_sequence(torch.float32, bf16=True)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize(("length", "position"), [(1, 0), (23, 9), (23, 22)])
def test_a_position_that_is_no_number_spoils_those_after_it_alone(isa, bad, length, position):
    """In no other call either: memory is kept from one to the next."""
    hidden, layers = make_model(5, length, 48, (64, 80))
    settings = {"heads": 3, "bf16": True}
    dirty = hidden.clone()
    dirty[2, position, 3] = bad
    others = [0, 1, 3, 4]
    for given in (layers, held_layers(layers)):
        clean = rk.decoder_layers(hidden, given, **settings)
        out = rk.decoder_layers(dirty, given, **settings)
        assert torch.equal(out[others], clean[others])
        assert torch.equal(out[2, :position], clean[2, :position])
        assert out[2, position:].isnan().all()
        assert torch.equal(rk.decoder_layers(hidden, given, **settings), clean)
    clean = passes(rk.decoder_layers, hidden, layers, **settings)
    out = passes(rk.decoder_layers, dirty, layers, **settings)
    for ours, right in zip(out[:2], clean, strict=False):  # the result, and its gradient's
        assert torch.equal(ours[others], right[others])
        assert ours[2, position:].isnan().all()
    assert same(passes(rk.decoder_layers, hidden, layers, **settings), clean)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 3.4e38, -3.4e38])
@pytest.mark.parametrize("place", [2, 4, 8, 10])
def test_a_weight_that_is_or_rounds_to_no_number_does_what_it_does_in_float32(isa, place, bad):
    """The largest numbers of float32 round to infinity."""
    hidden, layers = make_model(3, 7, 48, (80,))
    layers[0][place][5, -2] = bad
    settings = {"heads": 4, "bf16": True}
    got = [
        rk.decoder_layers(hidden, given, **settings)
        for given in (layers, lay(layers, turned), held_layers(layers))
    ]
    layers[0][place][5, -2] = torch.tensor(bad).bfloat16()
    want = rk.decoder_layers(hidden, layers, heads=4)
    assert not want.isfinite().all()
    for out in got:
        assert torch.equal(out.isfinite(), want.isfinite())
        assert torch.equal(out.isnan(), want.isnan())


def test_arguments_are_left_as_they_are(isa):
    hidden, layers = make_model(3, 7, 48, (80, 32))
    given = [hidden, *flat(layers)]
    before = [x.clone() for x in given]
    passes(rk.decoder_layers, hidden, layers, heads=3, bf16=True)
    assert same(given, before)

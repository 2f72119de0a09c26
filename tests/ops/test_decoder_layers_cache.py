"""decoder_layers with a cache: steps against float64, what is written where, and padding."""

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.reference.decoder_layers import decoder_layers as reference
from tests.ops.logits import isa, with_threads
from tests.ops.sublayer import DTYPES, assert_as_near_as_torch, turned
from tests.ops.test_decoder_layers import chain, check_near, flat, lay, make_model, pad, torchs

__all__ = ["isa"]

#: D, H: heads of 12, 5, 1, 40, 64, and of whole vectors.
WIDTHS = [(48, 4), (80, 16), (64, 64), (80, 2), (64, 1), (128, 4)]


def make_cache(layers, batch, heads, room, width, dtype=torch.float32):
    """Keys and values of each layer, none of which is a number yet."""
    shape = (batch, heads, room, width // heads)
    return [tuple(torch.full(shape, torch.nan, dtype=dtype) for _ in "kv") for _ in layers]


def fill_cache(cache, used, seed=5):
    """Draw the first `used` positions."""
    draw = torch.Generator().manual_seed(seed)
    for x in flat(cache):
        held = x[:, :, :used]
        held.copy_(torch.randn(held.shape, generator=draw, dtype=torch.float64))


def copy_cache(cache, part=slice(None)):
    return [tuple(x[part].clone() for x in pair) for pair in cache]


def assert_same_cache(one, other):
    for x, y in zip(flat(one), flat(other), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)


def heads_of(states, heads):
    """Keys and values [B, H, L, D / H] among a layer's states [B, L, 3 D]."""
    return [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in states.chunk(3, dim=-1)[1:]]


def generate(hidden, layers, heads, cache, prompt, **others):
    """The first `prompt` positions at once, then one after the other."""
    settings = {"heads": heads, "cache": cache, **others}
    found = [rk.decoder_layers(hidden[:, :prompt], layers, **settings)]
    for used in range(prompt, hidden.shape[1]):
        new = hidden[:, used : used + 1]
        found.append(rk.decoder_layers(new, layers, used=used, **settings))
    return torch.cat(found, 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("width", "heads"), WIDTHS)
@pytest.mark.parametrize("used", [0, 1, 15, 16, 63, 64, 130])
def test_a_step_matches_float64(isa, dtype, width, heads, used):
    hidden, layers = make_model(3, 1, width, (64, 48), dtype)
    cache = make_cache(layers, 3, heads, used + 3, width, dtype)
    fill_cache(cache, used)
    check_near(hidden, layers, heads=heads, cache=cache, used=used)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("width", "heads"), WIDTHS)
@pytest.mark.parametrize("prompt", [1, 6, 12])
def test_steps_after_a_prompt_are_as_near_float64_as_a_whole_pass(isa, dtype, width, heads, prompt):
    hidden, layers = make_model(3, 13, width, (64, 48), dtype)
    cache = make_cache(layers, 3, heads, 16, width, dtype)
    got = generate(hidden, layers, heads, cache, prompt)
    want, near = (f(hidden, layers, heads=heads) for f in (reference, torchs))
    assert_as_near_as_torch([got], [want], [near])


def test_the_reference_of_a_step_is_that_of_a_whole_pass():
    hidden, layers = make_model(2, 7, 48, (64, 48), torch.float64)
    cache = make_cache(layers, 2, 4, 9, 48, torch.float64)
    for (keys, values), states in zip(cache, chain(hidden, layers, 4)[1], strict=True):
        keys[:, :, :6], values[:, :, :6] = (x[:, :, :6] for x in heads_of(states, 4))
    for settings in ({}, {"starts": torch.tensor([0, 0])}):
        got = reference(hidden[:, 6:], layers, heads=4, cache=cache, used=6, **settings)
        want = reference(hidden, layers, heads=4)[:, 6:]
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("width", "heads"), WIDTHS)
def test_a_whole_pass_writes_the_keys_and_values_of_its_layers(isa, dtype, width, heads):
    hidden, layers = make_model(9, 7, width, (64, 48), dtype)
    cache = make_cache(layers, 9, heads, 10, width, dtype)
    got = rk.decoder_layers(hidden, layers, heads=heads, cache=cache)
    want, kept = chain(hidden, layers, heads)
    assert torch.equal(got, want)
    for pair, states in zip(cache, kept, strict=True):
        for found, right in zip(pair, heads_of(states, heads), strict=True):
            assert torch.equal(found[:, :, :7], right)
            assert found[:, :, 7:].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("width", "heads"), WIDTHS)
def test_a_step_writes_its_own_place_alone(isa, dtype, width, heads):
    hidden, layers = make_model(101, 1, width, (64, 48), dtype)
    cache = make_cache(layers, 101, heads, 9, width, dtype)
    fill_cache(cache, 5)
    before = copy_cache(cache)
    rk.decoder_layers(hidden, layers, heads=heads, cache=cache, used=5)
    first = heads_of(chain(hidden, layers[:1], heads)[1][0], heads)
    for found, right in zip(cache[0], first, strict=True):
        assert torch.equal(found[:, :, 5:6], right)
    assert all(x[:, :, 5].isfinite().all() for x in flat(cache))
    for x in flat(cache):
        x[:, :, 5] = torch.nan
    assert_same_cache(cache, before)


def test_steps_leave_the_cache_of_a_whole_pass(isa):
    """Of later layers too, whose inputs come of the steps' own attention."""
    hidden, layers = make_model(3, 9, 48, (64, 48, 32), torch.float64)
    cache, whole = (make_cache(layers, 3, 4, 9, 48, torch.float64) for _ in "ab")
    generate(hidden, layers, 4, cache, 4)
    rk.decoder_layers(hidden, layers, heads=4, cache=whole)
    for got, want in zip(flat(cache), flat(whole), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_scale_eps_and_rows_are_those_of_a_step(isa):
    hidden, layers = make_model(5, 1, 32, (48, 16), torch.float64)
    hidden *= 1e-2
    cache = make_cache(layers, 5, 4, 8, 32, torch.float64)
    fill_cache(cache, 7)
    plain = reference(hidden, layers, heads=4, cache=cache, used=7)
    for others in (
        {"scale": -1.5},
        {"scale": 0.0, "eps": 0.0},
        {"eps": 0.5},
        {"rows": torch.tensor([1, 4])},
    ):
        settings = {"heads": 4, "cache": cache, "used": 7, **others}
        want = reference(hidden, layers, **settings)
        assert (want - plain).abs().max() > 1e-3  # so each of them is seen
        got = rk.decoder_layers(hidden, layers, **settings)
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


def test_a_step_with_large_scores_is_that_of_float64(isa):
    """The shares of all but a few are exactly 0; exponentials of the others would overflow."""
    hidden, layers = make_model(3, 1, 64, (48,), torch.float64)
    cache = make_cache(layers, 3, 4, 21, 64, torch.float64)
    fill_cache(cache, 20)
    for keys, _ in cache:
        keys *= 1e3
    settings = {"heads": 4, "cache": cache, "used": 20}
    got, want = (f(hidden, layers, **settings) for f in (rk.decoder_layers, reference))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_that_lie_turned_give_the_same_step(isa, dtype):
    hidden, layers = make_model(7, 1, 80, (48, 208), dtype)
    cache = make_cache(layers, 7, 16, 9, 80, dtype)
    fill_cache(cache, 8)
    settings = {"heads": 16, "cache": cache, "used": 8}
    got = rk.decoder_layers(hidden, lay(layers, turned), **settings)
    assert torch.equal(got, rk.decoder_layers(hidden, layers, **settings))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("filler", [1e30, torch.nan])
@pytest.mark.parametrize(("width", "heads"), [(80, 16), (128, 4)])
def test_a_padded_sequence_generates_the_bits_that_it_does_alone(isa, dtype, filler, width, heads):
    """Among these one that starts at the last position of the prompt."""
    hidden, layers = make_model(4, 17, width, (48, 96), dtype)
    starts = torch.tensor([0, 10, 5, 6])
    cache = make_cache(layers, 4, heads, 18, width, dtype)
    got = generate(pad(hidden, starts, filler), layers, heads, cache, 11, starts=starts)
    for b, start in enumerate(starts.tolist()):
        own = make_cache(layers, 1, heads, 18 - start, width, dtype)
        alone = generate(hidden[b : b + 1, start:], layers, heads, own, 11 - start)
        assert torch.equal(got[b, start:], alone[0])
        kept = [tuple(x[b : b + 1, :, start:] for x in pair) for pair in cache]
        assert_same_cache(kept, own)


def test_a_sequence_that_starts_with_the_step_sees_itself_alone(isa):
    hidden, layers = make_model(2, 1, 48, (64, 32))
    cache = make_cache(layers, 2, 3, 8, 48)  # NaN, which it would see
    starts = torch.tensor([5, 5])
    got = rk.decoder_layers(hidden, layers, heads=3, cache=cache, used=5, starts=starts)
    want = reference(hidden, layers, heads=3, cache=cache, used=5, starts=starts)
    assert_as_near_as_torch([got], [want], [torchs(hidden, layers, heads=3)])


def check_steps_of_a_sequence(dtype, **settings):
    """They depend neither on the batch nor on the threads, to the bit."""
    hidden, layers = make_model(205, 1, 80, (96, 64), dtype)
    cache = make_cache(layers, 205, 5, 12, 80, dtype)
    fill_cache(cache, 9)

    def call(part=slice(None)):
        own = copy_cache(cache, part)
        return rk.decoder_layers(hidden[part], layers, heads=5, cache=own, used=9, **settings), own

    got, kept = with_threads(1, call)
    for threads in (2, 3):
        again, kept_again = with_threads(threads, call)
        assert torch.equal(got, again)
        assert_same_cache(kept, kept_again)
    for part in (slice(0, 1), slice(17, 20), slice(90, 205)):
        alone, own = call(part)
        assert torch.equal(alone, got[part])
        assert_same_cache(own, copy_cache(kept, part))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sequences_steps_do_not_depend_on_the_batch_or_the_threads(isa, dtype):
    check_steps_of_a_sequence(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", [0, 8, 20])
def test_a_held_position_that_is_no_number_spoils_its_own_sequence_alone(isa, dtype, bad, place):
    hidden, layers = make_model(5, 1, 48, (64, 80), dtype)
    cache = make_cache(layers, 5, 4, 22, 48, dtype)
    fill_cache(cache, 21)
    settings = {"heads": 4, "used": 21}
    clean = rk.decoder_layers(hidden, layers, cache=copy_cache(cache), **settings)
    others = [0, 1, 3, 4]
    for part in (0, 1):  # a key, a value
        spoilt = copy_cache(cache)
        spoilt[0][part][2, :, place, 7] = bad
        out = rk.decoder_layers(hidden, layers, cache=spoilt, **settings)
        assert torch.equal(out[others], clean[others])
        if part == 1 or bad != bad:  # an infinite score may be one of minus infinity: a share of 0
            assert out[2].isnan().all()


def test_a_place_after_the_new_position_is_not_read(isa):
    hidden, layers = make_model(2, 1, 48, (64,))
    cache = make_cache(layers, 2, 4, 40, 48)  # NaN from place 3 on
    fill_cache(cache, 3)
    got = rk.decoder_layers(hidden, layers, heads=4, cache=cache, used=3)
    tight = [tuple(x[:, :, :4].contiguous() for x in pair) for pair in cache]
    assert torch.equal(got, rk.decoder_layers(hidden, layers, heads=4, cache=tight, used=3))
    assert got.isfinite().all()

"""decoder_layers: what it refuses, and its identity in PyTorch."""

import pytest
import torch

import rlhf_kernels as rk
from tests.ops.sublayer import turned, wrong_weights
from tests.ops.test_decoder_layers import flat, lay, make_model
from tests.ops.test_decoder_layers_cache import (
    assert_same_cache,
    copy_cache,
    fill_cache,
    make_cache,
)

PARTS = ("norm_1 weight", "norm_1 bias", "in weight", "in bias", "out weight", "out bias")
PARTS += ("norm_2 weight", "norm_2 bias", "up weight", "up bias", "down weight", "down bias")
op = torch.ops.rlhf_kernels.decoder_layers.default


def make_step(used=5, room=9, dtype=torch.float32):
    """One new position of two sequences, two layers, and a cache."""
    hidden, layers = make_model(2, 1, 32, (48, 64), dtype)
    cache = make_cache(layers, 2, 4, room, 32, dtype)
    fill_cache(cache, used)
    return hidden, layers, cache


def arguments(hidden, layers, cache=(), rows=None, starts=None, used=0):
    """What the op itself takes."""
    keys, values = ([pair[part] for pair in cache] for part in (0, 1))
    return hidden, flat(layers), keys, values, rows, starts, used, 4, 0.3, 1e-5, False


@pytest.mark.parametrize("place", range(12))
@pytest.mark.parametrize("layer", [0, 1])
def test_a_wrong_weight_is_refused_by_its_layer_and_part(layer, place):
    hidden, layers = make_model(2, 5, 32, (48, 80))
    right = layers[layer][place]
    for problem, wrong in wrong_weights(right):
        part = PARTS[place]
        if part == "up bias" and "shape" in problem:  # which says what F is
            part, problem = "up (weight|bias)", "(have shape|be \\[F\\])"
        layers[layer][place] = wrong
        with pytest.raises(ValueError, match=f"argument 'layer {layer}, {part}' must {problem}"):
            rk.decoder_layers(hidden, layers, heads=4)


@pytest.mark.parametrize("inner", [24, 0])
def test_inner_columns_that_are_no_multiple_of_16_are_refused(inner):
    hidden, layers = make_model(2, 5, 32, (48, 64))
    layers[1][8:11] = torch.zeros(32, inner), torch.zeros(inner), torch.zeros(inner, 32)
    match = f"'layer 1, up bias' must be \\[F\\], F a multiple of 16, got \\[{inner}\\]"
    with pytest.raises(ValueError, match=match):
        rk.decoder_layers(hidden, layers, heads=4)


@pytest.mark.parametrize("count", [0, 1, 11, 13, 23])
def test_another_number_of_weights_is_refused(count):
    hidden, layers = make_model(2, 5, 32, (48, 64))
    weights = flat(layers)[:count]
    match = f"argument 'layers' must be 12 tensors for each of at least one, got {count}"
    with pytest.raises(ValueError, match=match):
        rk.decoder_layers(hidden, [weights] if weights else [], heads=4)


def test_wrong_hidden_states_are_refused():
    hidden, layers = make_model(2, 5, 32, (48,))
    for wrong, problem in (
        (hidden[0], "'hidden' must have 3 dimensions, got \\[5, 32\\]"),
        (hidden[None], "'hidden' must have 3 dimensions, got \\[1, 2, 5, 32\\]"),
        (torch.zeros(2, 5, 24), "'hidden' must have a multiple of 16 columns"),
        (torch.zeros(2, 5, 0), "'hidden' must have a multiple of 16 columns"),
        (torch.zeros(2, 5, 48), "'layer 0, norm_1 weight' must have shape \\[48\\], got \\[32\\]"),
        (hidden.double(), "'layer 0, norm_1 weight' must be float64, got float32"),
        (hidden.to(torch.int32), "'hidden' must be float32 or float64, got int32"),
    ):
        with pytest.raises(ValueError, match=problem):
            rk.decoder_layers(wrong, layers, heads=4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_floats_are_refused(dtype):
    hidden, layers = make_model(2, 5, 32, (48,), dtype)
    with pytest.raises(ValueError, match="'hidden' must be float32 or float64, got"):
        rk.decoder_layers(hidden, layers, heads=4)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"heads": 3}, "'heads' must divide the 32 columns of 'hidden', got 3"),
        ({"heads": 0}, "'heads' must divide"),
        ({"heads": -2}, "'heads' must divide"),
        ({"heads": 64}, "'heads' must divide"),
        ({"heads": 4, "scale": torch.nan}, "'scale' must be finite"),
        ({"heads": 4, "scale": torch.inf}, "'scale' must be finite"),
        ({"heads": 4, "eps": -1e-5}, "'eps' must be in \\[0, 1\\]"),
        ({"heads": 4, "eps": torch.nan}, "'eps' must be in \\[0, 1\\]"),
    ],
)
def test_a_wrong_number_is_refused_by_name(settings, problem):
    hidden, layers = make_model(2, 5, 32, (48,))
    with pytest.raises(ValueError, match=problem):
        rk.decoder_layers(hidden, layers, **settings)


def wrong_caches():
    """Yield what the error says, and a change to a cache for 2 sequences of 4 heads."""
    yield "'cache' must have keys and values of each of the 2 layers, got 1 and 1", lambda c: c[:1]
    yield "'cache' must have keys and values of each of the 2 layers, got 3", lambda c: [*c, c[0]]
    for layer in (0, 1):
        for part, name in enumerate(("keys", "values")):

            def put(change, layer=layer, part=part):
                def changed(cache):
                    pairs = [list(pair) for pair in cache]
                    pairs[layer][part] = change(pairs[layer][part])
                    return [tuple(pair) for pair in pairs]

                return changed

            start = f"'{name}\\[{layer}\\]' must "
            yield start + "be float32, got float64", put(lambda x: x.double())
            yield start + "be float32, got bfloat16", put(lambda x: x.bfloat16())
            yield start + "(have shape|be \\[B)", put(lambda x: x[0])
            yield start + "have shape", put(lambda x: x[:1].clone())
            yield start + "have shape", put(lambda x: x[:, :3].clone())
            yield start + "have shape", put(lambda x: x[..., :7].clone())
            yield start + "be contiguous", put(lambda x: x.mT.contiguous().mT)
            if (layer, part) != (0, 0):  # its room is what the others must have
                yield start + "have (shape|room)", put(lambda x: x[:, :, :-1].clone())


@pytest.mark.parametrize(("problem", "change"), list(wrong_caches()))
def test_a_wrong_cache_is_refused_by_name_and_layer(problem, change):
    hidden, layers, cache = make_step()
    with pytest.raises(ValueError, match=problem):
        rk.decoder_layers(hidden, layers, heads=4, cache=change(cache), used=5)


@pytest.mark.parametrize(
    ("length", "used", "room", "problem"),
    [
        (1, -1, 9, "'used' must be 0, or with a cache and one new position .* got -1"),
        (1, 5, None, "'used' must be 0, or with a cache .* got 5"),
        (2, 5, 9, "'used' must be 0, or with a cache and one new position .* got 5"),
        (0, 5, 9, "'used' must be 0, or with a cache and one new position .* got 5"),
        (1, 9, 9, "'keys\\[0\\]' must have room for 10 positions"),
        (10, 0, 9, "'keys\\[0\\]' must have room for 10 positions"),
        (1, 2**63 - 1, 9, "'keys\\[0\\]' must have room for 9223372036854775808 positions"),
    ],
)
def test_positions_that_no_cache_holds_or_can_hold_are_refused(length, used, room, problem):
    hidden, layers = make_model(2, length, 32, (48, 64))
    cache = make_cache(layers, 2, 4, room, 32) if room else []
    with pytest.raises(ValueError, match=problem):
        rk.decoder_layers(hidden, layers, heads=4, cache=cache, used=used)
    assert all(x.isnan().all() for x in flat(cache))


def test_a_full_cache_takes_the_last_position_that_it_has_room_for():
    hidden, layers, cache = make_step(used=8, room=9)
    out = rk.decoder_layers(hidden, layers, heads=4, cache=cache, used=8)
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (torch.tensor([0, 10]), "be ascending numbers from 0 to 9; entry 1 is 10"),
        (torch.tensor([-1]), "be ascending numbers from 0 to 9; entry 0 is -1"),
        (torch.tensor([3, 1]), "be ascending numbers from 0 to 9; entry 1 is 1"),
        (torch.tensor([3, 4, 4]), "be ascending numbers from 0 to 9; entry 2 is 4"),
        (torch.tensor([0, 1], dtype=torch.int32), "be int64, got int32"),
        (torch.tensor([True, False]), "be int64, got bool"),
        (torch.tensor([[0, 1]]), "be \\[N\\], got \\[1, 2\\]"),
        (torch.tensor(1), "be \\[N\\], got \\[\\]"),
    ],
)
def test_wrong_rows_are_refused(rows, problem):
    hidden, layers = make_model(2, 5, 32, (48,))
    with pytest.raises(ValueError, match=f"argument 'rows' must {problem}"):
        rk.decoder_layers(hidden, layers, heads=4, rows=rows)


@pytest.mark.parametrize(
    ("starts", "problem"),
    [
        (torch.tensor([0, 5]), "be numbers from 0 to 4; entry 1 is 5"),
        (torch.tensor([-1, 0]), "be numbers from 0 to 4; entry 0 is -1"),
        (torch.tensor([0, 0, 0]), "have shape \\[2\\], got \\[3\\]"),
        (torch.tensor([0]), "have shape \\[2\\], got \\[1\\]"),
        (torch.tensor([[0, 1]]), "be \\[N\\], got \\[1, 2\\]"),
        (torch.tensor([0, 1], dtype=torch.int32), "be int64, got int32"),
        (torch.tensor([0.0, 1.0]), "be int64, got float32"),
    ],
)
def test_wrong_starts_are_refused(starts, problem):
    hidden, layers = make_model(2, 5, 32, (48,))
    with pytest.raises(ValueError, match=f"argument 'starts' must {problem}"):
        rk.decoder_layers(hidden, layers, heads=4, starts=starts)


def test_a_start_after_a_steps_own_position_is_refused():
    hidden, layers, cache = make_step()
    settings = {"heads": 4, "cache": cache, "used": 5}
    with pytest.raises(ValueError, match="'starts' must be numbers from 0 to 5; entry 1 is 6"):
        rk.decoder_layers(hidden, layers, starts=torch.tensor([5, 6]), **settings)


@pytest.mark.parametrize("place", range(15))
def test_a_gradient_is_refused_with_a_cache_unless_none_is_recorded(place):
    hidden, layers, cache = make_step()
    want = rk.decoder_layers(hidden, layers, heads=4, cache=cache, used=5)
    (*layers[1], hidden, *cache[1])[place].requires_grad_()
    with pytest.raises(ValueError, match=r"no gradient; call it under torch\.no_grad"):
        rk.decoder_layers(hidden, layers, heads=4, cache=cache, used=5)
    with torch.no_grad():
        got = rk.decoder_layers(hidden, layers, heads=4, cache=cache, used=5)
    assert torch.equal(got, want)


def test_a_call_bumps_the_versions_of_all_that_it_writes():
    """So that autograd sees when what it saved has changed."""
    hidden, layers, cache = make_step()
    written, others = flat(cache), (hidden, *flat(layers))
    before = [x._version for x in (*written, *others)]
    rk.decoder_layers(hidden, layers, heads=4, cache=cache, used=5)
    after = [x._version for x in (*written, *others)]
    bumps = [new - old for new, old in zip(after, before, strict=True)]
    assert bumps == [1] * len(written) + [0] * len(others)


def test_a_cache_of_inference_mode_is_written_too():
    hidden, layers, cache = make_step()
    want = rk.decoder_layers(hidden, layers, heads=4, cache=cache, used=5)
    with torch.inference_mode():
        hidden, layers, own = make_step()
        got = rk.decoder_layers(hidden, layers, heads=4, cache=own, used=5)
        assert torch.equal(got, want)
    assert_same_cache(own, cache)


@pytest.mark.parametrize("chosen", [False, True])
@pytest.mark.parametrize("how", [list, turned])
def test_opcheck_of_a_whole_pass(how, chosen):
    hidden, layers = make_model(2, 7, 16, (32, 48), torch.float64)
    rows, starts = (torch.tensor([5, 9]), torch.tensor([2, 0])) if chosen else (None, None)
    torch.library.opcheck(op, arguments(hidden, lay(layers, how), (), rows, starts))


@pytest.mark.parametrize("used", [0, 5])
def test_opcheck_with_a_cache(used):
    """All of opcheck's tests: they copy the lists that the op writes."""
    hidden, layers, cache = make_step(used=used, dtype=torch.float64)
    torch.library.opcheck(op, arguments(hidden, layers, cache, used=used))


def test_compiles_without_graph_breaks():
    hidden, layers = make_model(3, 4, 80, (96, 48))
    hidden.requires_grad_()
    compiled = torch.compile(rk.decoder_layers, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        want = rk.decoder_layers(hidden, layers, heads=5)
        assert torch.equal(compiled(hidden, layers, heads=5), want)


def test_a_compiled_step_writes_its_cache():
    hidden, layers, cache = make_step()
    own = copy_cache(cache)
    want = rk.decoder_layers(hidden, layers, heads=4, cache=cache, used=5)
    compiled = torch.compile(rk.decoder_layers, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(hidden, layers, heads=4, cache=own, used=5), want)
    assert_same_cache(own, cache)


def test_on_the_meta_device_it_has_shapes():
    hidden, layers, cache = make_step()
    hidden, *weights = (x.to("meta") for x in (hidden, *layers[0], *layers[1]))
    meta = [tuple(x.to("meta") for x in pair) for pair in cache]
    for settings in ({}, {"cache": meta, "used": 5}):
        out = rk.decoder_layers(hidden, [weights[:12], weights[12:]], heads=4, **settings)
        assert out.shape == (2, 1, 32)
        assert out.device.type == "meta"
        assert out.dtype == torch.float32

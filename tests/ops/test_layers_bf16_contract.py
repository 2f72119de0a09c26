"""Layers in bfloat16: what they refuse, how weights lie, and their identity in PyTorch."""

import pytest
import torch

import rlhf_kernels as rk
from tests.ops.helpers import both_passes
from tests.ops.rounded import passes
from tests.ops.sublayer import make_inputs, same, turned
from tests.ops.test_decoder_layers import flat, make_model
from tests.ops.test_decoder_layers_cache import copy_cache, fill_cache, make_cache

MATRICES = {2: "in weight", 4: "out weight", 8: "up weight", 10: "down weight"}
ops = torch.ops.rlhf_kernels


def make_half(name, *, width=32, dtype=torch.float32):
    """A half's inputs, what it takes by name, and an upstream gradient."""
    if name == "self_attention":
        sizes = [(width, 3 * width), (width, width)]
        return *make_inputs((2, 5, width), sizes, dtype), {"heads": 2}
    return *make_inputs((2, 5, width), [(width, 48), (48, width)], dtype), {}


HALVES = pytest.mark.parametrize("name", ["self_attention", "feed_forward"])


@HALVES
def test_float64_is_refused_by_name(name):
    inputs, _, settings = make_half(name, dtype=torch.float64)
    match = f"^{name}: argument 'bf16' takes hidden states in float32 alone"
    with pytest.raises(ValueError, match=match):
        getattr(rk, name)(*inputs, **settings, bf16=True)


@pytest.mark.parametrize("place", [None, 0, 8])
def test_layers_of_float64_are_refused_by_name(place):
    """With a gradient too."""
    hidden, layers = make_model(2, 5, 32, (48,), torch.float64)
    if place is not None:
        layers[0][place].requires_grad_()
    with pytest.raises(ValueError, match="argument 'bf16' takes hidden states in float32 alone"):
        rk.decoder_layers(hidden, layers, heads=4, bf16=True)


@HALVES
@pytest.mark.parametrize(
    ("width", "dtype"), [(24, torch.float32), (32, torch.bfloat16), (32, torch.float16)]
)
def test_what_torch_computes_is_refused_with_its_own_way(name, width, dtype):
    inputs, _, settings = make_half(name, width=width, dtype=dtype)
    match = rf"^{name}: bf16=True takes float32 on a CPU.*use torch\.autocast"
    with pytest.raises(ValueError, match=match):
        getattr(rk, name)(*inputs, **settings, bf16=True)
    assert getattr(rk, name)(*inputs, **settings).dtype == dtype


def test_layers_that_no_kernel_takes_are_refused():
    for width, dtype in ((24, torch.float32), (32, torch.bfloat16)):
        hidden, layers = make_model(2, 5, width, (48,), dtype)
        with pytest.raises(
            ValueError, match=r"argument 'hidden' must (have a multiple|be float32)"
        ):
            rk.decoder_layers(hidden, layers, heads=4, bf16=True)


@pytest.mark.parametrize("place", MATRICES)
def test_copies_of_the_other_precision_are_refused_by_name(place):
    hidden, layers = make_model(2, 3, 64, (128,))
    copies = {bf16: rk.lay_out_layers(layers, bf16=bf16)[0][place] for bf16 in (False, True)}
    for asked, found in ((False, "be float32, got bfloat16"), (True, "be bfloat16, got float32")):
        given = [*layers[0][:place], copies[not asked], *layers[0][place + 1 :]]
        match = f"argument 'layer 0, {MATRICES[place]}' must {found}"
        with pytest.raises(ValueError, match=match):
            rk.decoder_layers(hidden, [given], heads=2, bf16=asked)
        given[place] = copies[asked]
        assert rk.decoder_layers(hidden, [given], heads=2, bf16=asked).isfinite().all()


@pytest.mark.parametrize("place", MATRICES)
def test_wrong_copies_are_refused_by_name(place):
    hidden, layers = make_model(2, 3, 48, (80,))
    (held,) = rk.lay_out_layers(layers, bf16=True)
    right = held[place]
    for wrong, problem in (
        (right.half(), "be bfloat16, got float16"),
        (right[:, :-1].contiguous(), "have shape"),
        (right[:, : layers[0][place].shape[0] // 2].contiguous(), "have shape"),  # not filled up
        (right[..., :64].contiguous(), "have shape"),
        (torch.cat([right, right]), "have shape"),
    ):
        given = (*held[:place], wrong, *held[place + 1 :])
        match = f"'layer 0, {MATRICES[place]}' must {problem}"
        with pytest.raises(ValueError, match=match):
            rk.decoder_layers(hidden, [given], heads=2, bf16=True)


def test_copies_that_are_laid_out_have_no_gradient():
    hidden, layers = make_model(2, 3, 16, (16,))
    hidden.requires_grad_()
    held = rk.lay_out_layers(layers, bf16=True)
    with pytest.raises(ValueError, match="has no gradient; call it under"):
        rk.decoder_layers(hidden, held, heads=2, bf16=True)


@pytest.mark.parametrize("how", [list, turned])
def test_a_copy_is_rounded_and_lies_in_pairs_of_rows(how):
    """(k, j) beside (k + 1, j), in panels of 64 columns; filled up with zeros."""
    _, layers = make_model(1, 1, 48, (80,))
    given = how([None, *(x.requires_grad_() for x in layers[0])])[1:]
    (held,) = rk.lay_out_layers([given], bf16=True)
    for place, weight in enumerate(given):
        if place not in MATRICES:
            assert held[place] is weight
            continue
        size, columns = weight.shape
        whole = torch.zeros(-(-size // 32) * 32, -(-columns // 64) * 64, dtype=torch.bfloat16)
        whole[:size, :columns] = weight.detach()
        want = torch.zeros(whole.shape[1] // 64, whole.shape[0] // 2, 128, dtype=torch.bfloat16)
        for k in range(whole.shape[0]):
            for panel in range(want.shape[0]):
                want[panel, k // 2, k % 2 :: 2] = whole[k, 64 * panel : 64 * panel + 64]
        assert torch.equal(held[place], want)
        assert not held[place].requires_grad


@HALVES
def test_opcheck_of_a_half(name):
    (hidden, *weights), upstream, settings = make_half(name)
    numbers = (2, 0.3, 1e-5, True) if settings else (1e-5, True)
    rows = () if settings else (None,)
    if not settings:
        hidden, upstream = hidden.flatten(0, 1), upstream.flatten(0, 1)
    op, gradient = getattr(ops, name), getattr(ops, f"{name}_backward")
    kept = op(hidden, *rows, *weights, *numbers)[1:]
    backward = (upstream, *kept, hidden, *rows, *weights, *numbers)
    torch.library.opcheck(gradient.default, backward)
    leaves = [x.detach().requires_grad_() for x in (hidden, *weights)]
    torch.library.opcheck(op.default, (leaves[0], *rows, *leaves[1:], *numbers))


@pytest.mark.parametrize("laid", [False, True])
def test_opcheck_of_layers(laid):
    hidden, layers = make_model(2, 1, 32, (48, 64))
    cache = make_cache(layers, 2, 4, 9, 32)
    fill_cache(cache, 5)
    given = rk.lay_out_layers(layers, bf16=True) if laid else layers
    keys, values = ([pair[part] for pair in cache] for part in (0, 1))
    arguments = (hidden, flat(given), keys, values, None, None, 5, 4, 0.3, 1e-5, True)
    torch.library.opcheck(ops.decoder_layers.default, arguments)


def test_layers_compile_without_graph_breaks():
    hidden, layers = make_model(3, 4, 80, (48, 64))
    compiled = torch.compile(rk.decoder_layers, fullgraph=True, backend="aot_eager")
    settings = {"heads": 5, "bf16": True}
    want = passes(rk.decoder_layers, hidden, layers, **settings)
    assert same(passes(compiled, hidden, layers, **settings), want)
    cache = make_cache(layers, 3, 5, 9, 80)
    fill_cache(cache, 7)
    step, own, held = hidden[:, :1], copy_cache(cache), rk.lay_out_layers(layers, bf16=True)
    want = rk.decoder_layers(step, held, cache=cache, used=7, **settings)
    assert torch.equal(compiled(step, held, cache=own, used=7, **settings), want)


@HALVES
def test_a_half_compiles_without_graph_breaks(name):
    inputs, upstream, settings = make_half(name)

    def call(*leaves):
        return getattr(rk, name)(*leaves, **settings, bf16=True)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    want = both_passes(call, inputs, upstream)
    assert same(both_passes(compiled, inputs, upstream), want)


@HALVES
def test_without_positions_weights_have_no_gradient(name):
    inputs, upstream, settings = make_half(name)
    inputs[0], upstream = inputs[0][:0], upstream[:0]
    got = both_passes(
        lambda *leaves: getattr(rk, name)(*leaves, **settings, bf16=True), inputs, upstream
    )
    assert [x.shape for x in got] == [upstream.shape, *(x.shape for x in inputs)]
    assert all(not x.any() for x in got)

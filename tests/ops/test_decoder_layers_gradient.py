"""decoder_layers for a gradient: to the bits its halves one after the other, in two calls."""

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.ops import _layers_gradient, decoder_layers
from tests.ops.logits import isa
from tests.ops.sublayer import DTYPES, kept_for_gradient, same, turned
from tests.ops.test_decoder_layers import lay, make_model

__all__ = ["isa"]

#: B, L, D, H, inner columns of each layer.
SHAPES = [(3, 7, 48, 4, (80, 64)), (9, 13, 128, 4, (512, 512, 512)), (2, 50, 64, 1, (64,))]
ops = torch.ops.rlhf_kernels


def leaves_of(hidden, layers):
    return hidden.clone().requires_grad_(), [[x.requires_grad_() for x in own] for own in layers]


def both(function, hidden, layers, **settings):
    """The result and all gradients; copies of the weights, so that none is shared."""
    x, own = leaves_of(hidden, [[w.detach().clone() for w in layer] for layer in layers])
    y = function(x, own, **settings)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=y.dtype)
    every = [x, *(w for layer in own for w in layer)]
    return [y.detach(), *torch.autograd.grad(y, every, upstream)]


def halves(x, layers, *, heads, scale=None, eps=1e-5, rows=None):
    for place, own in enumerate(layers):
        x = rk.self_attention(x, *own[:6], heads=heads, scale=scale, eps=eps)
        chosen = rows if place == len(layers) - 1 else None
        x = rk.feed_forward(x, *own[6:], eps=eps, rows=chosen)
    return x


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_halves_to_the_bit(isa, shape, dtype):
    batch, length, width, heads, inners = shape
    hidden, layers = make_model(batch, length, width, inners, dtype)
    some = torch.tensor([0, 4, batch * length - 1])
    for settings in ({}, {"rows": some}, {"rows": some[:0]}, {"scale": 0.3, "eps": 1e-3}):
        settings = {"heads": heads} | settings
        found = both(rk.decoder_layers, hidden, layers, **settings)
        assert same(found, both(halves, hidden, layers, **settings))
        with torch.no_grad():
            assert torch.equal(found[0], rk.decoder_layers(hidden, layers, **settings))


def test_matrices_that_lie_by_columns_have_gradients_that_do(isa):
    hidden, layers = make_model(3, 5, 48, (80, 64))
    laid = lay(layers, turned)
    x, own = leaves_of(hidden, laid)
    rk.decoder_layers(x, own, heads=4).square().sum().backward()
    x_, own_ = leaves_of(hidden, layers)
    halves(x_, own_, heads=4).square().sum().backward()
    assert torch.allclose(x.grad, x_.grad, rtol=1e-4, atol=1e-5)
    for layer, layer_ in zip(own, own_, strict=True):
        for weight, weight_ in zip(layer, layer_, strict=True):
            assert weight.grad.stride() == weight.stride()
            assert (weight.grad - weight_.grad).abs().max() <= 1e-4 * weight_.grad.abs().max()


def test_large_layers_are_differentiated_one_by_one(monkeypatch):
    hidden, layers = make_model(3, 5, 48, (80, 64))
    numbers = sum(x.numel() for own in layers for x in own)
    called = []
    monkeypatch.setattr(
        decoder_layers, "apart", lambda *given: called.append(1) or _layers_gradient.apart(*given)
    )
    found = []
    for most in (numbers, numbers - 1):
        monkeypatch.setattr(decoder_layers, "MOST", most)
        found.append(both(rk.decoder_layers, hidden, layers, heads=4, rows=torch.tensor([2, 9])))
        assert len(called) == (most < numbers)
    assert same(*found)


def test_gradcheck(isa):
    hidden, layers = make_model(2, 3, 16, (16, 32), torch.float64)
    flat = [x for own in layers for x in own]

    def call(x, *weights):
        own = [weights[:12], weights[12:]]
        return rk.decoder_layers(x, own, heads=2, rows=torch.tensor([0, 3, 4]))

    leaves = [x.requires_grad_() for x in (hidden, *flat)]
    assert torch.autograd.gradcheck(call, leaves)


def test_what_needs_no_gradient_gets_none():
    hidden, layers = make_model(2, 5, 48, (80, 64))
    whole = both(rk.decoder_layers, hidden, layers, heads=4)
    weight = layers[1][2].requires_grad_()
    out = rk.decoder_layers(hidden, layers, heads=4)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(3))
    out.backward(upstream)
    assert torch.equal(weight.grad, whole[2 + 12 + 2])
    others = [x for own in layers for x in own if x is not weight]
    assert hidden.grad is None
    assert all(x.grad is None for x in others)


def test_twice_through_a_kept_graph_is_the_same_and_a_second_derivative_is_refused():
    hidden, layers = make_model(2, 3, 16, (16,))
    x, own = leaves_of(hidden, layers)
    out = rk.decoder_layers(x, own, heads=2).square().sum()
    first, again = (torch.autograd.grad(out, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, again)
    (grad,) = torch.autograd.grad(out, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_a_weight_that_changed_in_between_is_an_error():
    hidden, layers = make_model(2, 3, 16, (16,))
    x, own = leaves_of(hidden, layers)
    out = rk.decoder_layers(x, own, heads=2).sum()
    with torch.no_grad():
        own[0][8].mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


@pytest.mark.parametrize("held", ["cache", "starts", "panels"])
def test_what_has_no_gradient_is_refused(held):
    hidden, layers = make_model(2, 3, 16, (16,))
    hidden.requires_grad_()
    more = {}
    if held == "cache":
        more["cache"] = [tuple(torch.zeros(2, 2, 3, 8) for _ in range(2))]
    elif held == "starts":
        more["starts"] = torch.tensor([0, 1])
    else:
        layers = rk.lay_out_layers(layers)
    with pytest.raises(ValueError, match="has no gradient; call it under"):
        rk.decoder_layers(hidden, layers, heads=2, **more)
    with torch.no_grad():
        rk.decoder_layers(hidden, layers, heads=2, **more)


def test_wrong_arguments_are_refused_by_name():
    hidden, layers = make_model(2, 3, 48, (80,))
    hidden.requires_grad_()
    (own,) = layers
    for wrong, problem in (
        ([own[:-1]], "'layers' must be 12 tensors"),
        ([], "'layers' must be 12 tensors"),
        ([[*own[:2], own[2][0], *own[3:]]], "'layer 0, in weight' must"),
        ([[*own[:8], own[8][0], *own[9:]]], "'layer 0, up weight' must"),
        ([[x.bfloat16() for x in own]], "'layer 0, norm_1 weight' must be float32"),
    ):
        with pytest.raises(ValueError, match=f"^decoder_layers: argument {problem}"):
            rk.decoder_layers(hidden, wrong, heads=4)
    with pytest.raises(ValueError, match="must have 3 dimensions"):
        rk.decoder_layers(hidden[0], layers, heads=4)
    with pytest.raises(ValueError, match="'heads' must divide"):
        rk.decoder_layers(hidden, layers, heads=5)


@pytest.mark.parametrize("name", ["decoder_layers", "decoder_layers_kept"])
def test_the_operators_themselves_refuse_a_gradient_by_what_is_listed(name):
    """autograd does not see tensors in lists, and would give them none."""
    hidden, layers = make_model(2, 3, 16, (16,))
    weights = [x.requires_grad_() for x in layers[0]]
    caches = ([], []) if name == "decoder_layers" else ()
    places = (None, None, 0) if caches else (None,)
    call = getattr(ops, name)
    with pytest.raises(RuntimeError, match="has no derivative by what is listed"):
        call(hidden, weights, *caches, *places, 2, 0.3, 1e-5, False)
    with torch.no_grad():
        call(hidden, weights, *caches, *places, 2, 0.3, 1e-5, False)


def test_nothing_of_size_l_squared_is_kept():
    hidden, layers = make_model(2, 131, 32, (48, 16))
    x, own = leaves_of(hidden, layers)
    kept = kept_for_gradient(lambda: rk.decoder_layers(x, own, heads=2))
    shapes = {tuple(t.shape) for t in kept if t.ndim == 3}
    assert shapes == {(2, 131, 32), (2, 131, 96), (1, 262, 64)}


@pytest.mark.parametrize(("dtype", "bf16"), [(torch.float64, False), (torch.float32, True)])
@pytest.mark.parametrize("rows", [None, torch.tensor([1, 4])])
def test_opcheck(rows, dtype, bf16):
    hidden, layers = make_model(2, 3, 16, (16, 32), dtype)
    weights, numbers = [x for own in layers for x in own], (rows, 2, 0.3, 1e-5, bf16)
    kept = ops.decoder_layers_kept(hidden, weights, *numbers)
    assert len(kept) == 10
    torch.library.opcheck(ops.decoder_layers_kept.default, (hidden, weights, *numbers))
    backward = (torch.randn_like(hidden), hidden, weights, kept, *numbers)
    torch.library.opcheck(ops.decoder_layers_backward.default, backward)


def test_compiles_without_graph_breaks():
    hidden, layers = make_model(3, 4, 80, (48, 64))
    compiled = torch.compile(rk.decoder_layers, fullgraph=True, backend="aot_eager")
    wanted = both(rk.decoder_layers, hidden, layers, heads=5)
    assert same(both(compiled, hidden, layers, heads=5), wanted)

"""What the tests of products in bfloat16 share: instruction sets, and truths of two kinds.

A rounded truth is float64 with both factors of every product with a weight rounded, in both passes.
Whole numbers are the other: they and their sums need no rounding, so every bit is known.
"""

import pytest
import torch

from tests.ops.helpers import both_passes
from tests.ops.logits import ISAS, choose_isa
from tests.ops.test_decoder_layers import torchs

#: Matrix units have products of their own; all else of "amx" is that of "avx512bf16".
PAIR_ISAS = ("amx", *ISAS)


@pytest.fixture(params=PAIR_ISAS)
def isa(request, monkeypatch):
    """Run the test on each instruction set that this machine has."""
    return choose_isa(request.param, monkeypatch)


def nearest(x):
    """The bfloat16 that a kernel rounds a float32 to."""
    return x.float().bfloat16().double()


class Product(torch.autograd.Function):
    """A product of rounded factors, whose gradients are such products too."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return nearest(x) @ nearest(weight)

    @staticmethod
    def backward(ctx, grad):
        x, weight = (nearest(y) for y in ctx.saved_tensors)
        grad = nearest(grad)
        return grad @ weight.T, x.flatten(0, -2).T @ grad.flatten(0, -2)


def affine(x, weight, bias):
    return Product.apply(x, weight) + bias


def rounded(hidden, layers, **settings):
    """decoder_layers from torch's operators, with rounded factors; for float64."""
    return torchs(hidden, layers, affine=affine, **settings)


def fed(product):
    """feed_forward from torch's operators, for float64, with that product."""

    def call(hidden, norm_weight, norm_bias, up_weight, up_bias, down_weight, down_bias, rows=None):
        x = hidden if rows is None else hidden[rows]
        x = torch.nn.functional.layer_norm(x, x.shape[-1:], norm_weight, norm_bias)
        inner = torch.nn.functional.gelu(product(x, up_weight) + up_bias, approximate="tanh")
        added = product(inner, down_weight) + down_bias
        return hidden + added if rows is None else hidden.index_add(0, rows, added)

    return call


def passes(function, hidden, layers, **settings):
    """The result of whole layers and all gradients, in the dtype of `hidden`."""
    draw = torch.Generator().manual_seed(3)
    upstream = torch.randn(hidden.shape, generator=draw).to(hidden.dtype)

    def call(x, *weights):
        own = [weights[at : at + 12] for at in range(0, len(weights), 12)]
        return function(x, own, **settings)

    weights = [x.to(hidden.dtype) for layer in layers for x in layer]
    return both_passes(call, [hidden, *weights], upstream)


def norm_of(x):
    return x.detach().double().norm().item()


def assert_rounded(got, want, exact, share=1 / 3):
    """Assert that results are the rounded truth, which is not the exact one.

    Sums in float32 differ from those in float64 in their last bits. Of some 10^4 numbers one then
    lies on the other side of a middle between two bfloat16, and errs by as much as rounding does;
    of a product's result that is the root of their share, 1 % of the whole effect of rounding, and
    what follows from it more. A third of that effect leaves room for two small layers or a large
    one; float32 products err by the effect itself. Where numbers are so few that none lies near a
    middle, only the sums' last bits are allowed: a share of 0.
    """
    for place, (ours, truth, other) in enumerate(zip(got, want, exact, strict=True)):
        assert ours.dtype == torch.float32
        assert ours.shape == truth.shape
        error, effect = norm_of(ours - truth), norm_of(truth - other)
        allowed = 2e-6 * norm_of(truth) + effect * share
        assert error <= allowed, f"number {place}: error {error:.3g} > {allowed:.3g}"


def make_whole(shape, weights, seed=0, shift=0.0):
    """Inputs of a layer's half that need no rounding, and an upstream gradient.

    Rows hold as many 1 as -1, which without an eps are their own norm; matrices hold -1, 0 and 1.

    Args:
        shape: of the hidden states.
        weights: sizes [in, out] of the matrices.
        shift: added to the first bias.

    The upstream gradient is even, so that halves of its products are whole too.
    """
    draw = torch.Generator().manual_seed(seed)

    def whole(*sizes, most=1):
        return torch.randint(-most, most + 1, sizes, generator=draw).float()

    width, flat = shape[-1], torch.Size(shape[:-1]).numel()
    signs = torch.ones(flat, width)
    signs[:, ::2] = -1
    places = torch.rand(flat, width, generator=draw).argsort(-1)
    hidden = signs.gather(-1, places).view(shape)
    inputs = [hidden, 1 + whole(width), whole(width)]
    for size, out in weights:
        inputs += [whole(size, out), whole(out, most=3)]
    inputs[4] += shift
    return inputs, 2 * whole(*shape)

"""What the tests of a layer's two halves share: inputs, how weights may lie, and error bounds."""

import torch

from tests.tolerances import FLOOR_DOUBLE, FLOOR_RELATIVE, max_error

DTYPES = (torch.float32, torch.float64)
#: Relative to the largest entry: torch's own error in the same dtype can be zero by luck.
FLOOR = {torch.float32: FLOOR_RELATIVE, torch.float64: FLOOR_DOUBLE}


def make_inputs(shape, weights, dtype=torch.float32, seed=0):
    """Hidden states off zero, a norm, a matrix and a bias of each size, and an upstream gradient.

    Args:
        shape: of the hidden states.
        weights: sizes [in, out] of the matrices.
    """
    draw = torch.Generator().manual_seed(seed)

    def normal(*sizes, scale=1.0, shift=0.0):
        drawn = torch.randn(sizes, generator=draw, dtype=torch.float64)
        return (shift + scale * drawn).to(dtype)

    width = shape[-1]
    inputs = [
        normal(*shape, scale=2.0, shift=0.5),
        normal(width, scale=0.3, shift=1.0),
        normal(width, scale=0.3),
    ]
    for size, out in weights:
        inputs += [normal(size, out, scale=1.5 * size**-0.5), normal(out, scale=0.3)]
    return inputs, normal(*shape)


def turned(inputs):
    """The same matrices as transposes of contiguous ones."""
    hidden, *weights = inputs
    return [hidden, *(x.T.contiguous().T if x.ndim == 2 else x for x in weights)]


def spaced(inputs):
    """The same weights as every second entry of others, whose other entries are NaN."""
    hidden, *weights = inputs
    found = []
    for x in weights:
        wide = torch.full([2 * size for size in x.shape], torch.nan, dtype=x.dtype)
        view = wide[(slice(None, None, 2),) * x.ndim]
        view.copy_(x)
        found.append(view)
    return [hidden, *found]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def assert_as_near_as_torch(got, want, near):
    """Every result and gradient errs at most twice as much as torch's in the same dtype."""
    for place, (ours, truth, theirs) in enumerate(zip(got, want, near, strict=True)):
        assert ours.dtype == theirs.dtype
        largest = truth.abs().max().item() if truth.numel() else 0.0
        allowed = FLOOR[ours.dtype] * largest + 2 * max_error(theirs, truth)
        error = max_error(ours, truth)
        assert error <= allowed, f"number {place}: error {error:.3g} > {allowed:.3g}"


def kept_for_gradient(call):
    """Return what autograd saves during a call."""
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return kept


def wrong_weights(right):
    """Yield what is wrong, as the error says it, and a weight that is wrong so."""
    for dtype in (torch.float64, torch.bfloat16, torch.int32):
        yield f"be float32, got {str(dtype)[6:]}", right.to(dtype)
    shape = "(have shape|be a matrix)"
    yield shape, torch.zeros([right.shape[0] + 16, *right.shape[1:]])
    yield shape, right[None]
    yield shape, right[0].clone()

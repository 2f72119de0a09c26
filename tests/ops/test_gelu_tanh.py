"""gelu_tanh against float64, its gradient, its contract and its identity in PyTorch."""

import pytest
import torch
from torch.nn.functional import gelu

import rlhf_kernels as rk
from rlhf_kernels.reference.gelu_tanh import gelu_tanh as reference
from tests.ops.helpers import both_passes
from tests.ops.logits import DTYPES, isa, with_threads
from tests.tolerances import FLOOR_STORAGE, max_error

__all__ = ["isa"]


def make_units(shape, dtype=torch.float32, scale=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(shape, generator=generator)).to(dtype)


def torch_tanh(x):
    return gelu(x, approximate="tanh")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (3, 5, 11), (8209,), (70000,)])
def test_both_passes_match_float64(isa, dtype, shape):
    """None, one, a vector's rest, several dimensions, past a piece, threaded."""
    x, upstream = make_units(shape, dtype), make_units(shape, dtype, 1.0, seed=1)
    got = both_passes(rk.gelu_tanh, [x], upstream)
    want = both_passes(reference, [x.double()], upstream.double())
    near = both_passes(torch_tanh, [x], upstream)
    for ours, truth, theirs in zip(got, want, near, strict=True):
        assert ours.dtype == dtype
        assert ours.shape == x.shape
        largest = truth.abs().max().item() if truth.numel() else 1.0
        floor = FLOOR_STORAGE[dtype] * largest
        assert max_error(ours, truth) <= floor + (2 if dtype.itemsize > 2 else 1) * max_error(
            theirs, truth
        )


def test_small_results_are_as_exact_as_large_ones(isa):
    """Where x < 0, 1 + tanh loses all digits from -5 on; a sigmoid loses none."""
    x = torch.linspace(-6, -0.01, 999)
    wide = x.double()
    truth = wide * torch.sigmoid(1.5957691216057308 * (wide + 0.044715 * wide**3))
    relative = ((rk.gelu_tanh(x).double() - truth) / truth).abs().max().item()
    theirs = ((torch_tanh(x).double() - truth) / truth).abs().max().item()
    assert relative < 4e-6 < 100 * theirs


def test_far_out_it_is_the_identity_and_nothing(isa):
    x = torch.tensor([-1e4, -40.0, 40.0, 1e4, torch.inf, torch.nan])
    y, grad = both_passes(rk.gelu_tanh, [x], torch.ones(6))
    assert y[:2].abs().max() < 1e-30
    assert grad[:2].abs().max() < 1e-20
    assert torch.equal(y[2:5], x[2:5])
    assert grad[2:4].tolist() == [1.0, 1.0]
    assert y[5].isnan()
    assert grad[5].isnan()


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_value_is_too_large_for_either_pass(isa, dtype):
    """Where x^2 overflows, and where x is so large that a product with a tiny number is not."""
    sizes = torch.tensor([9.9, 10.1, 60.0, 6e4, 5e10, 1e13, 1.7e19, 2e19, 1e30, 3e38, torch.inf])
    x = sizes.to(dtype)
    up, down = (both_passes(rk.gelu_tanh, [part], torch.ones(11, dtype=dtype)) for part in (x, -x))
    assert torch.equal(up[0], x)
    assert torch.equal(up[1], torch.ones_like(x))
    for passed in down:
        assert passed.double().abs().max() < 1e-33


def test_an_element_does_not_depend_on_its_place_or_the_threads(isa):
    x, upstream = make_units(40000), make_units(40000, seed=1)
    y, grad = with_threads(1, lambda: both_passes(rk.gelu_tanh, [x], upstream))
    again = with_threads(4, lambda: both_passes(rk.gelu_tanh, [x], upstream))
    for part in (slice(3, 20), slice(8191, 8193), slice(39999, 40000)):
        y_part, grad_part = both_passes(rk.gelu_tanh, [x[part].clone()], upstream[part].clone())
        assert torch.equal(y_part, y[part])
        assert torch.equal(grad_part, grad[part])
    assert torch.equal(again[0], y)
    assert torch.equal(again[1], grad)


def test_strided_inputs_equal_dense_ones():
    x, upstream = make_units((6, 10)), make_units((5, 6), seed=1)
    strided = both_passes(rk.gelu_tanh, [x[:, ::2].T], upstream)
    dense = both_passes(rk.gelu_tanh, [x[:, ::2].T.contiguous()], upstream)
    assert torch.equal(strided[0], dense[0])
    assert torch.equal(strided[1], dense[1])


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="'x' must be float32"):
        rk.gelu_tanh(torch.ones(3, dtype=torch.int32))
    with pytest.raises(ValueError, match="'grad_out' must have the dtype"):
        torch.ops.rlhf_kernels.gelu_tanh_backward(torch.ones(3).double(), torch.ones(3))


def test_opcheck_and_gradcheck():
    x = make_units((4, 3), torch.float64).requires_grad_()
    torch.library.opcheck(torch.ops.rlhf_kernels.gelu_tanh.default, (x,))
    torch.library.opcheck(
        torch.ops.rlhf_kernels.gelu_tanh_backward.default, (torch.ones(4, 3), torch.ones(4, 3))
    )
    assert torch.autograd.gradcheck(rk.gelu_tanh, (x,))


def test_second_derivative_is_refused():
    x = make_units(3).requires_grad_()
    (grad,) = torch.autograd.grad(rk.gelu_tanh(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no derivative"):
        grad.sum().backward()


def test_compiles_without_graph_breaks():
    x = make_units(64).requires_grad_()
    compiled = torch.compile(lambda a: rk.gelu_tanh(a).sum(), fullgraph=True, backend="aot_eager")
    compiled(x).backward()
    expected = both_passes(rk.gelu_tanh, [x], torch.ones(64))[1]
    assert torch.equal(x.grad, expected)


def test_only_x_is_kept_for_the_gradient():
    x = make_units(64).requires_grad_()
    y = rk.gelu_tanh(x)
    assert [saved.data_ptr() for saved in y.grad_fn.saved_tensors] == [x.data_ptr()]


def test_on_another_device_it_is_torchs():
    """Ours would refuse a tensor without memory."""
    x = torch.empty(3, 4, device="meta")
    assert rk.gelu_tanh(x).device.type == "meta"
    with pytest.raises(RuntimeError, match="meta"):
        rk._registry._C.gelu_tanh(x, x)

"""token_kl against float64, its gradient, its contract and its identity in PyTorch."""

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.reference.token_kl import token_kl as reference
from tests.tolerances import FLOOR_RELATIVE, assert_gradient_near_truth, assert_near_truth

ESTIMATORS = ("k1", "k2", "k3")


def make_pair(n, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logprobs = -4 * torch.rand(n, generator=generator, dtype=torch.float64)
    ref = logprobs + 0.3 * torch.randn(n, generator=generator, dtype=torch.float64)
    return logprobs.to(dtype), ref.to(dtype)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("n", [0, 1, 7, 4097, 70000])  # empty, one, odd, past a piece, threaded
def test_values_match_float64(estimator, dtype, n):
    x, ref = make_pair(n, dtype)
    out = rk.token_kl(x, ref, estimator=estimator)
    assert out.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_near_truth(out, reference(x, ref, estimator=estimator), floor=FLOOR_RELATIVE)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_match_float64(estimator, dtype):
    x, ref = (t.requires_grad_() for t in make_pair(100, dtype))
    weights = torch.linspace(-1, 1, 100)
    rk.token_kl(x, ref, estimator=estimator).backward(weights)
    x64, ref64 = (t.detach().double().requires_grad_() for t in (x, ref))
    reference(x64, ref64, estimator=estimator).backward(weights.double())
    assert_gradient_near_truth(x.grad, x64.grad)
    assert_gradient_near_truth(ref.grad, ref64.grad)


def test_k3_stays_finite_at_a_difference_of_100():
    x = torch.tensor([-100.0, 0.0], requires_grad=True)
    out = rk.token_kl(x, torch.tensor([0.0, -100.0]), estimator="k3")
    out.sum().backward()
    assert out.isfinite().all()
    assert x.grad.isfinite().all()
    assert out[1] == 99.0


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_is_zero_bitwise_for_equal_inputs_and_never_negative(estimator):
    x, ref = make_pair(1000)
    assert (rk.token_kl(x, x, estimator=estimator) == 0).all()
    assert (rk.token_kl(x, x + 1e-4 * ref, estimator=estimator) >= 0).all()


def test_strided_inputs_equal_dense_ones():
    x, ref = make_pair(200)
    assert torch.equal(rk.token_kl(x[::2], ref[::2]), rk.token_kl(x, ref)[::2])


def test_errors_name_the_argument():
    x, ref = make_pair(4)
    with pytest.raises(ValueError, match="'ref_logprobs' must have the shape"):
        rk.token_kl(x, ref[:3])
    with pytest.raises(ValueError, match="'ref_logprobs' must have the dtype"):
        rk.token_kl(x, ref.bfloat16())
    with pytest.raises(ValueError, match="'estimator' must be"):
        rk.token_kl(x, ref, estimator="k4")
    with pytest.raises(ValueError, match="'logprobs' must be float32"):
        rk.token_kl(x.int(), ref.int())


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_opcheck_and_gradcheck(estimator):
    x, ref = (t.requires_grad_() for t in make_pair(5, torch.float64))
    torch.library.opcheck(torch.ops.rlhf_kernels.token_kl.default, (x, ref, estimator))
    assert torch.autograd.gradcheck(lambda a, b: rk.token_kl(a, b, estimator=estimator), (x, ref))


def test_second_derivative_is_refused():
    x, ref = make_pair(3)
    x.requires_grad_()
    (grad,) = torch.autograd.grad(rk.token_kl(x, ref, estimator="k2").sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no derivative"):
        grad.sum().backward()


def test_compiles_without_graph_breaks():
    x, ref = make_pair(64)
    x.requires_grad_()
    compiled = torch.compile(
        lambda a, b: rk.token_kl(a, b, estimator="k3").sum(), fullgraph=True, backend="aot_eager"
    )
    compiled(x, ref).backward()
    expected = x.detach().clone().requires_grad_()
    rk.token_kl(expected, ref, estimator="k3").sum().backward()
    assert torch.equal(x.grad, expected.grad)

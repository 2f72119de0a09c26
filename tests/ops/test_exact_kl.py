"""exact_kl: precision at small and large values, its gradient, its contract."""

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.reference.exact_kl import exact_kl as reference
from tests.ops.logits import DTYPES, isa, make_logits, poison
from tests.tolerances import FLOOR_DOUBLE, assert_gradient_near_truth, assert_near_truth

__all__ = ["isa"]


def make_pair(n, vocab, dtype=torch.float32, distance=0.3):
    logits = make_logits(n, vocab, torch.float64)
    noise = torch.randn(n, vocab, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return logits.to(dtype), (logits + distance * noise).to(dtype)


def plain(logits, ref_logits, temperature=1.0):
    """The direct form in fp32."""
    logp = (logits.float() / temperature).log_softmax(-1)
    return (logp.exp() * (logp - (ref_logits.float() / temperature).log_softmax(-1))).sum(-1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [1, 2, 7, 31, 2047, 2049, 50257])
def test_values_match_float64(isa, dtype, vocab):
    x, y = make_pair(3, vocab, dtype)
    kl = rk.exact_kl(x, y)
    # 1e-7 relative to values of order 0.1: one fp32 rounding.
    floor = 100 * FLOOR_DOUBLE if dtype == torch.float64 else 1e-7
    assert_near_truth(kl, reference(x, y), floor=floor)


@pytest.mark.parametrize("distance", [1e-4, 1e-3, 1e-2])
def test_small_values_keep_their_relative_precision_and_are_never_negative(isa, distance):
    x, y = make_pair(8, 50257, distance=distance)
    kl, truth = rk.exact_kl(x, y), reference(x, y)
    assert (kl >= 0).all()
    assert ((kl.double() - truth).abs() / truth).max() < 1e-3
    # The direct fp32 form is off by more than the value itself at 1e-4.
    if distance == 1e-4:
        assert ((plain(x, y).double() - truth).abs() / truth).max() > 1e-1


@pytest.mark.parametrize("dtype", DTYPES)
def test_is_zero_bitwise_for_equal_inputs(isa, dtype):
    x, _ = make_pair(3, 2049, dtype)
    leaf = x.clone().requires_grad_()
    kl = rk.exact_kl(leaf, x)
    kl.sum().backward()
    assert (kl == 0).all()
    assert (leaf.grad == 0).all()


def test_peaked_logits_do_not_overflow(isa):
    x, y = torch.zeros(2, 3000), torch.zeros(2, 3000)
    x[:, 5], y[:, 9] = 120.0, 120.0
    y[1, 5] = -3e4
    kl = rk.exact_kl(x, y)
    assert kl.isfinite().all()
    assert_near_truth(kl / 3e4, reference(x, y) / 3e4)


def test_minus_infinity_in_either_or_both(isa):
    x, y = make_pair(4, 3000)
    x[0, :2500] = -torch.inf  # p = 0: contributes nothing
    y[1, 7] = -torch.inf  # q = 0 < p: infinite
    x[2, ::2] = -torch.inf
    y[2, ::2] = -torch.inf  # both
    x[3, 4:] = -torch.inf
    y[3, 4:] = -torch.inf
    leaf = x.clone().requires_grad_()
    kl = rk.exact_kl(leaf, y)
    assert_near_truth(kl, reference(x, y), floor=1e-6)
    assert kl[1] == torch.inf
    kl[[0, 2, 3]].sum().backward()
    assert leaf.grad[[0, 2, 3]].isfinite().all()
    assert (leaf.grad[2, ::2] == 0).all()


def test_nan_is_not_hidden(isa):
    x, y = make_pair(2, 500)
    x[0, 3], y[1, 3] = torch.nan, torch.nan
    assert rk.exact_kl(x, y).isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_match_float64(isa, dtype):
    x, y = make_pair(3, 2049, dtype)
    weights = torch.tensor([1.0, -2.0, 0.3])
    grads = []
    for function, leaf in (
        (rk.exact_kl, x.clone()),
        (reference, x.double()),
        (plain, x.float()),
    ):
        leaf.requires_grad_()
        out = function(leaf, y, temperature=0.7)
        out.backward(weights.to(out.dtype))
        grads.append(leaf.grad)
    assert_gradient_near_truth(grads[0], grads[1], None if dtype == torch.float64 else grads[2])


def test_masked_rows_are_not_read(isa):
    x, y = make_pair(4, 100)
    expected = rk.exact_kl(x, y)
    mask = torch.tensor([True, False, False, True])
    x[1], y[2] = torch.nan, torch.nan
    leaf = x.requires_grad_()
    kl = rk.exact_kl(leaf, y, mask=mask)
    kl.sum().backward()
    assert torch.equal(kl, torch.where(mask, expected, 0.0))
    assert (leaf.grad[1:3] == 0).all()


def test_a_row_does_not_depend_on_its_batch_or_layout(isa):
    x, y = make_pair(9, 2500)
    full = rk.exact_kl(x, y)
    assert torch.equal(rk.exact_kl(x[4:5], y[4:5]), full[4:5])
    assert torch.equal(rk.exact_kl(poison(x), poison(y, extra=3)), full)


def test_temperature_per_row():
    x, y = make_pair(3, 500)
    temperature = torch.tensor([0.5, 1.0, 2.0])
    truth = reference(x, y, temperature=temperature)
    assert_near_truth(rk.exact_kl(x, y, temperature=temperature), truth, floor=1e-6)


def test_errors_name_the_argument():
    x, y = make_pair(3, 8)
    for match, call in {
        "'ref_logits' must have shape": lambda: rk.exact_kl(x, y[:2]),
        "'ref_logits' must be float32": lambda: rk.exact_kl(x, y.bfloat16()),
        "'ref_logits' must have its vocabulary": lambda: rk.exact_kl(x, torch.zeros(8, 3).t()),
        "'temperature' must be at least": lambda: rk.exact_kl(x, y, temperature=0.0),
        "'mask' must have shape": lambda: rk.exact_kl(x, y, mask=torch.ones(2, dtype=torch.bool)),
    }.items():
        with pytest.raises(ValueError, match=match):
            call()


def test_opcheck_gradcheck_and_compile():
    x, y = make_pair(3, 9, torch.float64)
    x.requires_grad_()
    torch.library.opcheck(torch.ops.rlhf_kernels.exact_kl.default, (x, y, None, None, 0.8))
    assert torch.autograd.gradcheck(lambda a: rk.exact_kl(a, y, temperature=0.8), (x,))
    compiled = torch.compile(
        lambda a: rk.exact_kl(2 * a, y).sum(), fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(x), rk.exact_kl(2 * x, y).sum())

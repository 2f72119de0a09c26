"""masked_mean against float64, its gradient and its contract."""

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.reference.masked_mean import masked_mean as reference
from tests.ops.helpers import DTYPES, SHAPES, make_tokens, poison, result_dtype
from tests.tolerances import FLOOR_NATS, assert_near_truth


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("denominator", [None, 7])
def test_value_and_gradient_match_float64(shape, dtype, denominator):
    x, mask = make_tokens(*shape, count=1, dtype=dtype)
    x = poison(x, mask).requires_grad_()
    out = rk.masked_mean(x, mask, denominator=denominator)
    truth = reference(x, mask, denominator=denominator)
    out.backward()
    assert out.dtype == result_dtype(dtype)
    assert_near_truth(out, truth, floor=FLOOR_NATS * max(1.0, abs(truth.item())))
    weight = 1 / (denominator or max(1, int(mask.sum())))
    assert_near_truth(x.grad, torch.where(mask, weight, 0.0).double(), floor=2.0**-8 * weight)


def test_is_zero_without_entries():
    assert rk.masked_mean(torch.full((3,), torch.nan), torch.zeros(3, dtype=torch.bool)) == 0


def test_errors_name_the_argument():
    x, mask = make_tokens(6, count=1)
    with pytest.raises(ValueError, match="'mask' must be bool"):
        rk.masked_mean(x, mask.float())
    with pytest.raises(ValueError, match="'mask' must be bool of the shape"):
        rk.masked_mean(x, mask[:2])


def test_gradcheck_and_fullgraph():
    x, mask = make_tokens(3, 5, count=1, dtype=torch.float64)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda t: rk.masked_mean(t, mask), (x,))
    compiled = torch.compile(rk.masked_mean, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, mask), rk.masked_mean(x, mask))

"""explained_variance against float64, at its anchors and its contract."""

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.reference.explained_variance import explained_variance as reference
from tests.ops.helpers import DTYPES, make_tokens, poison, result_dtype
from tests.tolerances import FLOOR_NATS, assert_near_truth


@pytest.mark.parametrize("shape", [(2,), (3, 7), (67, 1023)])  # smallest, odd, threaded
@pytest.mark.parametrize("dtype", DTYPES)
def test_value_matches_float64(shape, dtype):
    values, returns, mask = make_tokens(*shape, count=2, dtype=dtype, kept=1.0)
    out = rk.explained_variance(values, returns, mask)
    truth = reference(values, returns, mask)
    assert out.dtype == result_dtype(dtype)
    assert_near_truth(out, truth, floor=FLOOR_NATS * max(1.0, abs(truth.item())))


def test_anchors():
    _, returns, mask = make_tokens(50, 20, count=2)
    mean = rk.masked_mean(returns, mask).expand(50, 20)
    assert rk.explained_variance(returns, returns, mask) == 1
    assert rk.explained_variance(mean, returns, mask).item() == pytest.approx(0.0, abs=1e-6)
    assert rk.explained_variance(mean + 10, returns, mask) < -50


def test_masked_entries_do_not_count():
    values, returns, mask = make_tokens(50, 20, count=2)
    assert torch.equal(
        rk.explained_variance(values, returns, mask),
        rk.explained_variance(poison(values, mask), poison(returns, mask), mask),
    )


def test_is_nan_where_the_returns_do_not_vary():
    mask = torch.ones(4, dtype=torch.bool)
    assert rk.explained_variance(torch.rand(4), torch.ones(4), mask).isnan()
    assert rk.explained_variance(torch.rand(4), torch.ones(4), mask & False).isnan()


def test_errors_name_the_argument():
    values, returns, mask = make_tokens(6, count=2)
    with pytest.raises(ValueError, match="'returns' must have the shape"):
        rk.explained_variance(values, returns[:2], mask)
    with pytest.raises(ValueError, match="'mask' must be bool"):
        rk.explained_variance(values, returns, mask.float())


def test_compiles_without_graph_breaks():
    tensors = make_tokens(3, 5, count=2)
    compiled = torch.compile(rk.explained_variance, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*tensors), rk.explained_variance(*tensors))

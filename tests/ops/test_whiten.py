"""whiten against float64, its mask and its contract."""

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.reference.whiten import whiten as reference
from tests.ops.helpers import DTYPES, SHAPES, make_tokens, poison, result_dtype, run_with_threads
from tests.tolerances import FLOOR_NATS, assert_near_truth


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shift_mean", [True, False])
def test_values_match_float64(shape, dtype, shift_mean):
    x, mask = make_tokens(*shape, count=1, dtype=dtype)
    x = 3 * x + 2
    out = rk.whiten(x, mask, shift_mean=shift_mean)
    assert out.dtype == result_dtype(dtype)
    truth = reference(x, mask, shift_mean=shift_mean)
    assert_near_truth(out, truth, floor=FLOOR_NATS)


def test_keeping_the_mean_keeps_it():
    x, mask = make_tokens(50, 50, count=1)
    white = rk.whiten(x + 5, mask, shift_mean=False)
    assert white[mask].double().mean().item() == pytest.approx(
        (x + 5)[mask].double().mean().item(), abs=1e-5
    )


def test_variance_is_the_biased_one():
    x = torch.tensor([1.0, -1.0])
    mask = torch.ones(2, dtype=torch.bool)
    assert rk.whiten(x, mask).tolist() == pytest.approx([1.0, -1.0], abs=1e-6)


def test_constant_and_single_entries_become_zero():
    assert (rk.whiten(torch.full((5,), 3.25), torch.ones(5, dtype=torch.bool)) == 0).all()
    assert rk.whiten(torch.tensor([7.0]), torch.tensor([True])).item() == 0


def test_large_mean_loses_nothing():
    x, mask = make_tokens(9000, count=1)
    x = x + 4096
    assert_near_truth(rk.whiten(x, mask), reference(x, mask), floor=FLOOR_NATS)


def test_masked_entries_are_never_read_and_give_zero():
    x, mask = make_tokens(40, 40, count=1)
    out = rk.whiten(x, mask)
    assert torch.equal(out, rk.whiten(poison(x, mask), mask))
    assert (out[~mask] == 0).all()
    assert (rk.whiten(poison(x, mask & False), mask & False) == 0).all()


def test_result_does_not_depend_on_threads_or_layout():
    x, mask = make_tokens(256, 301, count=1)
    one, two = (run_with_threads(n, lambda: rk.whiten(x, mask)) for n in (1, 2))
    strided = rk.whiten(x.t().contiguous().t(), mask.t().contiguous().t())
    assert torch.equal(one, two)
    assert torch.equal(one, strided)


def test_errors_name_the_argument():
    x, mask = make_tokens(6, count=1)
    with pytest.raises(ValueError, match="'x' must be float32"):
        rk.whiten(x.int(), mask)
    with pytest.raises(ValueError, match="'mask' must be bool"):
        rk.whiten(x, mask.float())
    with pytest.raises(ValueError, match="'mask' must have the shape"):
        rk.whiten(x, mask[:2])


def test_opcheck_and_fullgraph():
    x, mask = make_tokens(3, 5, count=1)
    torch.library.opcheck(torch.ops.rlhf_kernels.whiten.default, (x, mask, True))
    compiled = torch.compile(rk.whiten, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, mask), rk.whiten(x, mask))

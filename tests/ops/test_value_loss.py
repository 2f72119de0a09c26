"""value_loss against float64, at its corners, its contract and its identity in PyTorch."""

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.reference.value_loss import value_loss as reference
from tests.ops.helpers import (
    DTYPES,
    SHAPES,
    assert_stats_near_truth,
    make_tokens,
    poison,
    result_dtype,
    run_with_threads,
)
from tests.tolerances import FLOOR_NATS, assert_gradient_near_truth, assert_near_truth

OP = torch.ops.rlhf_kernels.value_loss.default


def make_inputs(*shape, dtype=torch.float32, seed=0):
    old, change, returns, mask = make_tokens(*shape, count=3, dtype=torch.float64, seed=seed)
    return (*(t.to(dtype) for t in (old + 0.3 * change, old, 2 * returns)), mask)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_loss_statistics_and_gradient_match_float64(shape, dtype):
    values, old, returns, mask = make_inputs(*shape, dtype=dtype)
    truth_input = values.double().requires_grad_()
    truth, truth_stats = reference(truth_input, old, returns, mask, cliprange_value=0.25)
    truth.backward()
    values.requires_grad_()
    loss, stats = rk.value_loss(values, old, returns, mask, cliprange_value=0.25)
    loss.backward()
    assert loss.dtype == result_dtype(dtype)
    assert values.grad.dtype == dtype
    assert_near_truth(loss, truth, floor=FLOOR_NATS * 4)  # the loss is of order 3
    assert_stats_near_truth(stats, truth_stats)
    if values.numel():
        assert_gradient_near_truth(values.grad.flatten(), truth_input.grad.flatten())


def test_hand_computed_three_tokens():
    # old 0, c 0.2. token 1: value 1, return 1: clipped 0.2 -> (0.8)^2 is larger, no gradient
    # token 2: value 1, return 0: unclipped 1 is larger. token 3: inside: value 0.1, return 0.5
    values = torch.tensor([1.0, 1.0, 0.1], requires_grad=True)
    returns = torch.tensor([1.0, 0.0, 0.5])
    mask = torch.ones(3, dtype=torch.bool)
    loss, stats = rk.value_loss(values, torch.zeros(3), returns, mask, cliprange_value=0.2)
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * (0.64 + 1.0 + 0.16) / 3, abs=1e-6)
    assert values.grad.tolist() == pytest.approx([0.0, 1 / 3, -0.4 / 3], abs=1e-6)
    assert stats["clipfrac"].item() == pytest.approx(1 / 3, abs=1e-6)
    assert stats["error"].item() == pytest.approx((0.0 + 1.0 + 0.16) / 3, abs=1e-6)
    assert stats["returns_mean"].item() == pytest.approx(0.5, abs=1e-6)
    assert stats["returns_var"].item() == pytest.approx(1 / 6, abs=1e-6)


def test_explained_variance_follows_from_the_statistics():
    values, old, returns, mask = make_inputs(9, 200)
    _, stats = rk.value_loss(values, old, returns, mask, cliprange_value=0.25)
    share = 1 - stats["error"] / stats["returns_var"]
    assert share.item() == pytest.approx(
        rk.explained_variance(values, returns, mask).item(), abs=1e-5
    )


@pytest.mark.parametrize(("dtype", "offset"), [(torch.float32, 2.0**12), (torch.float64, 2.0**26)])
def test_variance_survives_a_large_mean(dtype, offset):
    # a spread of 1 around the offset: plain sums of squares would lose it in either type
    values, old, returns, mask = make_inputs(5000, dtype=dtype)
    values, old, returns = (t + offset for t in (values, old, returns))
    _, stats = rk.value_loss(values, old, returns, mask, cliprange_value=0.25)
    for name, tensor in (("values_var", values), ("returns_var", returns)):
        truth = (tensor[mask].double() - offset).var(correction=0)
        assert_near_truth(stats[name], truth, floor=FLOOR_NATS * 4)


def test_masked_tokens_are_never_read():
    *tensors, mask = make_inputs(13, 77)
    clean, poisoned = [], []
    for source, results in ((lambda t: t, clean), (lambda t: poison(t, mask), poisoned)):
        values, old, returns = (source(t).clone() for t in tensors)
        values.requires_grad_()
        loss, stats = rk.value_loss(values, old, returns, mask, cliprange_value=0.2)
        loss.backward()
        results += [loss, values.grad, *stats.values()]
    assert all(torch.equal(a, b) for a, b in zip(clean, poisoned, strict=True))
    assert (clean[1][~mask] == 0).all()


def test_all_masked_gives_zero_everywhere():
    values, old, returns, mask = make_inputs(4, 5)
    values.requires_grad_()
    loss, stats = rk.value_loss(values, old, returns, mask & False, cliprange_value=0.2)
    loss.backward()
    assert loss == 0
    assert (values.grad == 0).all()
    assert all(value == 0 for value in stats.values())


def test_nan_in_a_counted_token_shows():
    values, old, returns, _ = make_inputs(9)
    returns[4] = torch.nan
    mask = torch.ones(9, dtype=torch.bool)
    loss, stats = rk.value_loss(values, old, returns, mask, cliprange_value=0.2)
    assert loss.isnan()
    assert stats["error"].isnan()


def test_micro_batches_add_up_to_the_batch():
    *tensors, mask = make_inputs(12, 50)
    whole, parts = (tensors[0].clone().requires_grad_() for _ in range(2))
    loss, _ = rk.value_loss(whole, *tensors[1:], mask, cliprange_value=0.2)
    loss.backward()
    total = 0.0
    for rows in (slice(0, 1), slice(1, 8), slice(8, 12)):
        part, _ = rk.value_loss(
            parts[rows],
            *(t[rows] for t in tensors[1:]),
            mask[rows],
            cliprange_value=0.2,
            denominator=int(mask.sum()),
        )
        part.backward()
        total += part.item()
    assert torch.equal(parts.grad, whole.grad)
    assert total == pytest.approx(loss.item(), rel=1e-6)


def test_result_does_not_depend_on_threads_or_layout():
    *tensors, mask = make_inputs(64, 1024)
    one, two = (
        run_with_threads(n, lambda: rk.value_loss(*tensors, mask, cliprange_value=0.2))
        for n in (1, 2)
    )
    strided = rk.value_loss(
        *(t.t().contiguous().t() for t in tensors), mask.t().contiguous().t(), cliprange_value=0.2
    )
    for other in (two, strided):
        assert torch.equal(one[0], other[0])
        assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])


def test_errors_name_the_argument():
    values, old, returns, mask = make_inputs(6)
    for arguments, clip, denominator, message in [
        ((values.int(), old, returns, mask), 0.2, None, "'values' must be float32"),
        ((values, old[:3], returns, mask), 0.2, None, "'old_values' must have the shape"),
        ((values, old, returns[:3], mask), 0.2, None, "'returns' must have the shape"),
        ((values, old, returns, mask.float()), 0.2, None, "'mask' must be bool"),
        ((values, old, returns, mask), -1.0, None, "'cliprange_value' must be"),
        ((values, old, returns, mask), float("inf"), None, "'cliprange_value' must be"),
        ((values, old, returns, mask), 0.2, float("nan"), "'denominator' must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            rk.value_loss(*arguments, cliprange_value=clip, denominator=denominator)


def test_opcheck_and_gradcheck():
    values, old, returns, mask = make_inputs(3, 5, dtype=torch.float64)
    values.requires_grad_()
    torch.library.opcheck(OP, (values, old, returns, mask, 0.2, None))
    assert torch.autograd.gradcheck(
        lambda x: rk.value_loss(x, old, returns, mask, cliprange_value=0.2)[0], (values,)
    )


def test_compiles_without_graph_breaks():
    values, old, returns, mask = make_inputs(8, 16)

    def step(x):
        loss, stats = rk.value_loss(x, old, returns, mask, cliprange_value=0.2)
        return 0.1 * loss + 0 * stats["error"]

    eager, compiled = (values.clone().requires_grad_() for _ in range(2))
    step(eager).backward()
    torch.compile(step, fullgraph=True, backend="aot_eager")(compiled).backward()
    assert torch.equal(compiled.grad, eager.grad)

"""gae against the defining double sum in float64, its masks, its whitening, its contract."""

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.reference.gae import gae as reference
from tests.ops.helpers import DTYPES, make_tokens, poison, result_dtype, run_with_threads
from tests.tolerances import FLOOR_NATS, assert_near_truth

OP = torch.ops.rlhf_kernels.gae.default
#: T = 1, odd, a multiple of 8, no tokens, no rows, many rows of odd length (threaded).
SHAPES = [(3, 1), (5, 7), (4, 64), (3, 0), (0, 5), (70, 501)]


def make_inputs(*shape, dtype=torch.float32, seed=0):
    return make_tokens(*shape, count=2, dtype=dtype, seed=seed, kept=0.8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.99, 1.0), (0.9, 0.0)])
def test_advantages_and_returns_match_float64(shape, dtype, whiten, gamma, lam):
    rewards, values, mask = make_inputs(*shape, dtype=dtype)
    advantages, returns = rk.gae(rewards, values, mask, gamma=gamma, lam=lam, whiten=whiten)
    truth = reference(rewards, values, mask, gamma=gamma, lam=lam, whiten=whiten)
    for actual, expected in zip((advantages, returns), truth, strict=True):
        assert actual.dtype == result_dtype(dtype)
        scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
        assert_near_truth(actual, expected, floor=FLOOR_NATS * scale)


def test_hand_computed_three_tokens():
    # gamma 0.5, lam 0.5. delta_2 = 1 - 0.3 = 0.7 (the value after the end is 0)
    # delta_1 = 0 + 0.5 * 0.3 - 0.2 = -0.05, A_1 = -0.05 + 0.25 * 0.7 = 0.125
    # delta_0 = 0 + 0.5 * 0.2 - 0.1 = 0, A_0 = 0.25 * 0.125 = 0.03125
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.1, 0.2, 0.3]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    advantages, returns = rk.gae(rewards, values, mask, gamma=0.5, lam=0.5)
    assert advantages[0].tolist() == pytest.approx([0.03125, 0.125, 0.7], abs=1e-7)
    assert returns[0].tolist() == pytest.approx([0.13125, 0.325, 1.0], abs=1e-7)


def test_advantages_stop_at_the_last_token():
    # what stands after the last unmasked token changes nothing before it
    rewards, values, _ = make_inputs(4, 9)
    mask = torch.arange(9) < torch.tensor([[9], [5], [1], [0]])
    whole = rk.gae(rewards, values, mask, gamma=1.0, lam=0.95)
    cut = rk.gae(rewards[1:2, :5], values[1:2, :5], mask[1:2, :5], gamma=1.0, lam=0.95)
    for full, short in zip(whole, cut, strict=True):
        assert torch.equal(full[1, :5], short[0])
        assert (full[~mask] == 0).all()


def test_holes_in_the_mask_are_skipped():
    rewards, values, _ = make_inputs(1, 6)
    mask = torch.tensor([[True, False, False, True, True, False]])
    kept = mask[0]
    holed = rk.gae(rewards, values, mask, gamma=0.9, lam=0.8)
    dense = rk.gae(rewards[:, kept], values[:, kept], mask[:, kept], gamma=0.9, lam=0.8)
    for full, short in zip(holed, dense, strict=True):
        assert torch.equal(full[:, kept], short)


@pytest.mark.parametrize("whiten", [False, True])
def test_masked_tokens_are_never_read(whiten):
    rewards, values, mask = make_inputs(8, 33)
    clean = rk.gae(rewards, values, mask, gamma=1.0, lam=0.95, whiten=whiten)
    dirty = rk.gae(
        poison(rewards, mask), poison(values, mask), mask, gamma=1.0, lam=0.95, whiten=whiten
    )
    assert all(torch.equal(a, b) for a, b in zip(clean, dirty, strict=True))


def test_all_masked_gives_zero():
    rewards, values, mask = make_inputs(2, 4)
    for result in rk.gae(rewards, values, mask & False, gamma=1.0, lam=0.95, whiten=True):
        assert (result == 0).all()


def test_returns_are_formed_before_whitening():
    rewards, values, mask = make_inputs(8, 33)
    _, plain = rk.gae(rewards, values, mask, gamma=1.0, lam=0.95)
    white, returns = rk.gae(rewards, values, mask, gamma=1.0, lam=0.95, whiten=True)
    assert torch.equal(plain, returns)
    assert white[mask].double().mean().abs() < 1e-6
    assert white[mask].double().var(correction=0).item() == pytest.approx(1.0, abs=1e-5)


def test_a_row_does_not_depend_on_its_batch_or_on_threads():
    rewards, values, mask = make_inputs(600, 101)
    one, two = (
        run_with_threads(n, lambda: rk.gae(rewards, values, mask, gamma=1.0, lam=0.95, whiten=True))
        for n in (1, 2)
    )
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    batch = rk.gae(rewards, values, mask, gamma=1.0, lam=0.95)
    for row in (0, 6, 599):
        alone = rk.gae(*(t[row : row + 1] for t in (rewards, values, mask)), gamma=1.0, lam=0.95)
        assert all(torch.equal(a[row], b[0]) for a, b in zip(batch, alone, strict=True))


def test_strided_inputs_equal_dense_ones():
    rewards, values, mask = make_inputs(6, 20)
    dense = rk.gae(*(t[:, ::2].contiguous() for t in (rewards, values, mask)), gamma=1.0, lam=0.95)
    strided = rk.gae(*(t[:, ::2] for t in (rewards, values, mask)), gamma=1.0, lam=0.95)
    assert all(torch.equal(a, b) for a, b in zip(dense, strided, strict=True))


def test_errors_name_the_argument():
    rewards, values, mask = make_inputs(2, 3)
    for arguments, gamma, lam, message in [
        ((rewards[0], values[0], mask[0]), 1.0, 0.95, r"'rewards' must have two dimensions"),
        ((rewards.int(), values, mask), 1.0, 0.95, "'rewards' must be float32"),
        ((rewards, values[:, :2], mask), 1.0, 0.95, "'values' must have the shape"),
        ((rewards, values, mask.float()), 1.0, 0.95, "'mask' must be bool"),
        ((rewards, values, mask), 1.1, 0.95, "'gamma' must be between 0 and 1"),
        ((rewards, values, mask), 1.0, -0.1, "'lam' must be between 0 and 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            rk.gae(*arguments, gamma=gamma, lam=lam)


def test_opcheck():
    rewards, values, mask = make_inputs(3, 5)
    torch.library.opcheck(OP, (rewards, values, mask, 1.0, 0.95, True))


def test_compiles_without_graph_breaks():
    tensors = make_inputs(4, 9)
    compiled = torch.compile(
        lambda r, v, m: rk.gae(r, v, m, gamma=1.0, lam=0.95, whiten=True),
        fullgraph=True,
        backend="aot_eager",
    )
    expected = rk.gae(*tensors, gamma=1.0, lam=0.95, whiten=True)
    assert all(torch.equal(a, b) for a, b in zip(compiled(*tensors), expected, strict=True))

"""shaped_rewards against float64 and by hand: where the score lands, and what the KL costs."""

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.reference.shaped_rewards import shaped_rewards as reference
from tests.ops.helpers import DTYPES, make_tokens, poison, result_dtype, run_with_threads
from tests.tolerances import FLOOR_NATS, assert_near_truth

#: no rows, no tokens, one token, odd, threaded.
SHAPES = [(0, 4), (3, 0), (2, 1), (5, 7), (80, 501)]


def make_inputs(rows, length, dtype=torch.float32, seed=0):
    scores, _ = make_tokens(rows, count=1, dtype=dtype, seed=seed + 1)
    logprobs, change, mask = make_tokens(
        rows, length, count=2, dtype=torch.float64, seed=seed, kept=0.8
    )
    ref = logprobs + 0.3 * change
    return scores, (logprobs - 3).to(dtype), (ref - 3).to(dtype), mask


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_values_match_float64(shape, dtype, estimator):
    inputs = make_inputs(*shape, dtype=dtype)
    out = rk.shaped_rewards(*inputs, kl_coef=0.1, estimator=estimator)
    assert out.dtype == result_dtype(dtype)
    assert_near_truth(out, reference(*inputs, kl_coef=0.1, estimator=estimator), floor=FLOOR_NATS)


def test_hand_computed_three_token_episode():
    # two rows of three tokens and one of padding; the second ends after two tokens
    logprobs = torch.tensor([[-1.0, -2.0, -0.5, -9.0], [-1.0, -1.0, -9.0, -9.0]])
    ref = torch.tensor([[-1.5, -1.0, -0.5, -7.0], [-3.0, -2.0, -7.0, -7.0]])
    mask = torch.tensor([[True, True, True, False], [True, True, False, False]])
    out = rk.shaped_rewards(torch.tensor([2.0, -1.0]), logprobs, ref, mask, kl_coef=0.1)
    # k1 is +0.5, -1, 0 in the first row: a token less likely than under the reference earns
    assert out[0].tolist() == pytest.approx([-0.05, 0.1, 2.0, 0.0], abs=1e-7)
    assert out[1].tolist() == pytest.approx([-0.2, -0.1 - 1.0, 0.0, 0.0], abs=1e-7)


def test_score_lands_on_the_last_counted_token_of_a_holed_mask():
    mask = torch.tensor([[True, False, True, False, False], [False, True, True, True, True]])
    zeros = torch.zeros(2, 5)
    out = rk.shaped_rewards(torch.tensor([3.0, 4.0]), zeros, zeros, mask, kl_coef=0.02)
    assert out.tolist() == [[0, 0, 3.0, 0, 0], [0, 0, 0, 0, 4.0]]


def test_rewards_sum_to_score_minus_kl():
    scores, logprobs, ref, mask = make_inputs(20, 30, dtype=torch.float64)
    mask[:, 0] = True
    out = rk.shaped_rewards(scores, logprobs, ref, mask, kl_coef=0.05)
    kl = (rk.token_kl(logprobs, ref) * mask).sum(1)
    assert_near_truth(out.sum(1), scores - 0.05 * kl, floor=1e-12)


def test_identical_models_pay_nothing():
    scores, logprobs, _, mask = make_inputs(6, 9)
    out = rk.shaped_rewards(scores, logprobs, logprobs, mask, kl_coef=5.0)
    assert torch.equal(out.sum(1), torch.where(mask.any(1), scores, 0.0))


def test_masked_tokens_and_scores_of_empty_rows_are_never_read():
    scores, logprobs, ref, mask = make_inputs(8, 9)
    mask[3] = False
    clean = rk.shaped_rewards(scores, logprobs, ref, mask, kl_coef=0.1)
    dirty_scores = scores.clone()
    dirty_scores[3] = torch.nan
    dirty = rk.shaped_rewards(
        dirty_scores, poison(logprobs, mask), poison(ref, mask), mask, kl_coef=0.1
    )
    assert torch.equal(clean, dirty)
    assert (clean[~mask] == 0).all()


def test_a_row_does_not_depend_on_its_batch_threads_or_layout():
    inputs = make_inputs(300, 201)
    one, two = (
        run_with_threads(n, lambda: rk.shaped_rewards(*inputs, kl_coef=0.1)) for n in (1, 2)
    )
    assert torch.equal(one, two)
    alone = rk.shaped_rewards(*(t[299:] for t in inputs), kl_coef=0.1)
    assert torch.equal(one[299:], alone)
    scores, *rest = inputs
    strided = rk.shaped_rewards(scores, *(t.t().contiguous().t() for t in rest), kl_coef=0.1)
    assert torch.equal(one, strided)


def test_errors_name_the_argument():
    scores, logprobs, ref, mask = make_inputs(3, 4)
    for arguments, keywords, message in [
        ((scores[:2], logprobs, ref, mask), {}, r"'scores' must have shape \[3\]"),
        ((scores.int(), logprobs, ref, mask), {}, "'scores' must be float32"),
        ((scores, logprobs[0], ref[0], mask[0]), {}, "'logprobs' must have two dimensions"),
        ((scores, logprobs, ref[:, :2], mask), {}, "'ref_logprobs' must have the shape"),
        ((scores, logprobs, ref, mask.float()), {}, "'mask' must be bool"),
        ((scores, logprobs, ref, mask), {"kl_coef": -0.1}, "'kl_coef' must be"),
        ((scores, logprobs, ref, mask), {"estimator": "k4"}, "'estimator' must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            rk.shaped_rewards(*arguments, **{"kl_coef": 0.1, **keywords})


def test_opcheck_and_fullgraph():
    inputs = make_inputs(3, 5)
    torch.library.opcheck(torch.ops.rlhf_kernels.shaped_rewards.default, (*inputs, 0.1, "k1"))
    compiled = torch.compile(
        lambda *t: rk.shaped_rewards(*t, kl_coef=0.1), fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(*inputs), rk.shaped_rewards(*inputs, kl_coef=0.1))

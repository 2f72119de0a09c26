"""ranking_loss against float64: ragged K, ties, extreme differences, contract, identity."""

import math
from itertools import accumulate

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.reference.ranking_loss import ranking_loss as reference
from tests.ops.helpers import DTYPES, assert_stats_near_truth, result_dtype, run_with_threads
from tests.tolerances import FLOOR_NATS, assert_gradient_near_truth, assert_near_truth

OP = torch.ops.rlhf_kernels.ranking_loss.default
#: one pair, the paper's 4 to 9, no pair (K = 1 and K = 0), more prompts than a block of 64.
GROUPS = [[2], [4, 9, 6], [1, 3, 0, 2], [1], [], [5] * 150]


def make_inputs(sizes, dtype=torch.float32, seed=0, levels=4):
    """Return scores, ranks with ties (`levels` ranks) and the offsets of groups of `sizes`."""
    generator = torch.Generator().manual_seed(seed)
    count = sum(sizes)
    scores = (2 * torch.randn(count, generator=generator, dtype=torch.float64)).to(dtype)
    ranks = torch.randint(1, levels + 1, (count,), generator=generator)
    return scores, ranks, torch.tensor([0, *accumulate(sizes)])


def loss_and_gradient(scores, ranks, offsets, **keywords):
    scores = torch.tensor(scores, requires_grad=True)
    loss, stats = rk.ranking_loss(scores, torch.tensor(ranks), torch.tensor(offsets), **keywords)
    loss.backward()
    return loss.item(), scores.grad.tolist(), stats


@pytest.mark.parametrize("sizes", GROUPS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ties", ["drop", "half"])
def test_loss_statistics_and_gradient_match_float64(sizes, dtype, ties):
    scores, ranks, offsets = make_inputs(sizes, dtype)
    truth_input = scores.double().requires_grad_()
    truth, truth_stats = reference(truth_input, ranks, offsets, ties=ties)
    truth.backward()
    scores.requires_grad_()
    loss, stats = rk.ranking_loss(scores, ranks, offsets, ties=ties)
    loss.backward()
    assert loss.dtype == result_dtype(dtype)
    assert scores.grad.dtype == dtype
    assert_near_truth(loss, truth, floor=FLOOR_NATS)
    assert_stats_near_truth(stats, truth_stats)
    if scores.numel():
        assert_gradient_near_truth(scores.grad, truth_input.grad)


def test_hand_computed_pair_of_prompts():
    # prompt 1: scores 0, ln 3 with ranks 2, 1: -log sigmoid(ln 3) = ln(4/3)
    # prompt 2: three equal scores: each pair costs ln 2, whatever the number of pairs
    loss, gradient, stats = loss_and_gradient(
        [0.0, math.log(3.0), 1.0, 1.0, 1.0], [2, 1, 1, 2, 3], [0, 2, 5]
    )
    assert loss == pytest.approx((math.log(4 / 3) + math.log(2)) / 2, abs=1e-6)
    assert gradient == pytest.approx([0.125, -0.125, -1 / 6, 0.0, 1 / 6], abs=1e-6)
    assert stats["accuracy"].item() == pytest.approx((1 + 3 * 0.5) / 4)
    assert stats["margin"].item() == pytest.approx(math.log(3) / 4)
    assert (stats["pairs"].item(), stats["prompts"].item()) == (4, 2)


def test_every_prompt_weighs_the_same_whatever_its_k():
    # the mean is over a prompt's pairs first: 36 pairs of one prompt weigh as much as 1
    nine = list(range(9))
    loss, _, _ = loss_and_gradient(
        [float(-i) for i in nine] + [1.0, 0.0], [i + 1 for i in nine] + [2, 1], [0, 9, 11]
    )
    alone, _, _ = loss_and_gradient([float(-i) for i in nine], [i + 1 for i in nine], [0, 9])
    assert loss == pytest.approx((alone + math.log1p(math.e)) / 2, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_differences_of_ten_thousand(dtype):
    scores = torch.tensor([1e4, 0.0, -1e4, 0.0], dtype=dtype, requires_grad=True)
    ranks, offsets = torch.tensor([1, 2, 1, 2]), torch.tensor([0, 2, 4])
    loss, stats = rk.ranking_loss(scores, ranks, offsets)
    loss.backward()
    assert loss.item() == 5000.0
    assert scores.grad.tolist() == [0.0, 0.0, -0.5, 0.5]
    assert stats["accuracy"] == 0.5
    tied, _ = rk.ranking_loss(scores, torch.ones(4, dtype=torch.int64), offsets, ties="half")
    (grad,) = torch.autograd.grad(tied, scores)
    assert tied.item() == 5000.0
    assert grad.tolist() == [0.25, -0.25, -0.25, 0.25]


def test_ties_drop_or_count_half_each_way():
    scores, ranks, offsets = [1.0, 0.0, 5.0], [1, 1, 2], [0, 3]
    dropped, _, stats = loss_and_gradient(scores, ranks, offsets)
    half, _, half_stats = loss_and_gradient(scores, ranks, offsets, ties="half")
    ranked = math.log1p(math.exp(4.0)) + math.log1p(math.exp(5.0))
    tie = 0.5 * (math.log1p(math.exp(-1.0)) + math.log1p(math.e))
    assert dropped == pytest.approx(ranked / 2, rel=1e-6)
    assert half == pytest.approx((ranked + tie) / 3, rel=1e-6)
    for values in (stats, half_stats):
        assert (values["pairs"].item(), values["tied"].item()) == (2, 1)
        assert values["accuracy"] == 0


def test_prompts_without_pairs_count_nowhere():
    loss, gradient, stats = loss_and_gradient(
        [9.0, 1.0, 0.0, 3.0, 4.0], [1, 1, 2, 1, 1], [0, 1, 3, 5, 5]
    )
    assert loss == pytest.approx(math.log1p(math.exp(-1.0)), abs=1e-6)
    assert (stats["prompts"].item(), stats["skipped"].item()) == (1, 3)
    assert [gradient[i] for i in (0, 3, 4)] == [0.0, 0.0, 0.0]
    nothing, gradient, stats = loss_and_gradient([9.0, 9.0], [1, 1], [0, 2])
    assert (nothing, gradient) == (0.0, [0.0, 0.0])
    assert (stats["accuracy"].item(), stats["margin"].item()) == (0.0, 0.0)


def test_micro_batches_of_prompts_add_up_to_the_batch():
    sizes = [4, 9, 1, 6, 2, 3]
    scores, ranks, offsets = make_inputs(sizes)
    whole, parts = (scores.clone().requires_grad_() for _ in range(2))
    loss, stats = rk.ranking_loss(whole, ranks, offsets)
    loss.backward()
    total = 0.0
    for first, last in ((0, 1), (1, 4), (4, 6)):
        rows = slice(int(offsets[first]), int(offsets[last]))
        part, _ = rk.ranking_loss(
            parts[rows],
            ranks[rows],
            offsets[first : last + 1] - offsets[first],
            denominator=stats["prompts"],
        )
        part.backward()
        total += part.item()
    assert torch.equal(parts.grad, whole.grad)
    assert total == pytest.approx(loss.item(), rel=1e-6)


def test_nan_in_a_ranked_score_shows():
    loss, _, _ = loss_and_gradient([math.nan, 0.0], [1, 2], [0, 2])
    assert math.isnan(loss)


def test_result_does_not_depend_on_threads_layout_or_index_type():
    scores, ranks, offsets = make_inputs([9] * 2000)
    one, two = (
        run_with_threads(n, lambda: rk.ranking_loss(scores, ranks, offsets)) for n in (1, 2)
    )
    spread = torch.stack([scores, scores], 1)[:, 0]
    strided = rk.ranking_loss(spread, torch.stack([ranks, ranks], 1)[:, 1].int(), offsets.int())
    for other in (two, strided):
        assert torch.equal(one[0], other[0])
        assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])


def test_errors_name_the_argument():
    scores, ranks, offsets = make_inputs([2, 3])
    for arguments, keywords, message in [
        ((scores.int(), ranks, offsets), {}, "'scores' must be float32"),
        ((scores[None], ranks, offsets), {}, "'scores' must have one dimension"),
        ((scores, ranks[:2], offsets), {}, r"'ranks' must have shape \[5\]"),
        ((scores, ranks.float(), offsets), {}, "'ranks' must be int64"),
        ((scores, ranks - 4, offsets), {}, r"'ranks' must be 1 \(best\) or more, but entry"),
        ((scores, ranks, offsets.float()), {}, "'group_offsets' must be int64"),
        ((scores, ranks, offsets[:0]), {}, "'group_offsets' must have shape"),
        ((scores, ranks, offsets[:2]), {}, "'group_offsets' must start at 0 and end at"),
        ((scores, ranks, offsets[1:]), {}, "'group_offsets' must start at 0 and end at"),
        ((scores, ranks, torch.tensor([0, 4, 2, 5])), {}, "'group_offsets' must not decrease"),
        ((scores, ranks, torch.tensor([0, 9, 5])), {}, "'group_offsets' must not decrease"),
        ((scores, ranks, offsets), {"ties": "keep"}, "'ties' must be 'drop' or 'half'"),
        ((scores, torch.arange(1, 6), offsets), {"denominator": 0}, "'denominator' must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            rk.ranking_loss(*arguments, **keywords)


@pytest.mark.parametrize("ties", ["drop", "half"])
def test_opcheck_and_gradcheck(ties):
    scores, ranks, offsets = make_inputs([3, 1, 4], torch.float64)
    scores.requires_grad_()
    torch.library.opcheck(OP, (scores, ranks, offsets, ties, None))
    assert torch.autograd.gradcheck(
        lambda x: rk.ranking_loss(x, ranks, offsets, ties=ties)[0], (scores,)
    )


def test_compiles_without_graph_breaks():
    scores, ranks, offsets = make_inputs([4, 5])

    def step(x):
        loss, stats = rk.ranking_loss(x, ranks, offsets, denominator=4)
        return loss + 0 * stats["accuracy"]

    eager, compiled = (scores.clone().requires_grad_() for _ in range(2))
    step(eager).backward()
    torch.compile(step, fullgraph=True, backend="aot_eager")(compiled).backward()
    assert torch.equal(compiled.grad, eager.grad)

"""Ops on logits on CUDA: values and gradients, hard inputs, alignment, batch invariance."""

import math

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.reference.exact_kl import exact_kl as reference_kl
from rlhf_kernels.reference.gather_logprobs import gather_logprobs as reference
from tests.cuda.cases import ROWS, logits_pair, plain_logprobs
from tests.cuda.device import assert_same_bits, named
from tests.cuda.rules import DTYPES, assert_results_near_truth, check_repeats, check_values
from tests.ops.logits import make_logits, make_targets, poison
from tests.ops.policy import CLIP, make_batch, make_terms
from tests.tolerances import assert_near_truth

#: One, two, odd below a vector, below a warp, around a block of 2048.
SMALL = (1, 2, 7, 31, 2047, 2048, 2049)
#: Those of real models, GPT-2's padded one among them.
LARGE = (50257, 50304, 128256, 151936, 262144)
#: The cases that differ in kernel; the other terms of the objective change only a row's scalars.
KERNELS = [case for case in ROWS if not case.name.startswith("policy")]
KERNELS += [case for case in ROWS if case.name in ("policy_all", "policy_all_in_place")]


@pytest.mark.parametrize("vocab", SMALL)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", KERNELS, ids=str)
def test_values_and_gradients_match_float64_and_the_cpu(case, dtype, vocab, column):
    check_values(case, column, (4, vocab), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [case for case in ROWS if case not in KERNELS], ids=str)
def test_every_term_of_the_objective_matches_float64(case, dtype, column):
    check_values(case, column, (13, 300), dtype)


@pytest.mark.parametrize("vocab", LARGE)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", KERNELS, ids=str)
def test_vocabularies_of_real_models_match_float64(case, dtype, vocab, column):
    if column.kind == "emulated" and (vocab > 60_000 or dtype != torch.bfloat16):
        pytest.skip("emulated, only GPT-2's vocabularies in bfloat16: a row takes seconds")
    check_values(case, column, (4, vocab), dtype)


@pytest.mark.parametrize("case", KERNELS, ids=str)
def test_repeated_runs_give_the_same_bits(case, column):
    check_repeats(case, column, (6, 2051))


def slices(total):
    return [slice(0, 1), slice(3, 10), slice(total - 1, total)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_does_not_depend_on_its_batch(dtype, column):
    logits, targets = make_logits(40, 2051, dtype), make_targets(40, 2051)
    other = make_logits(40, 2051, dtype, seed=7)
    full, grad = column.differentiate(rk.gather_logprobs, logits, targets, upstream=torch.ones(40))
    kl, kl_grad = column.differentiate(rk.exact_kl, logits, other, upstream=torch.ones(40))
    for part in slices(40):
        given = (logits[part], targets[part])
        upstream = torch.ones(part.stop - part.start)
        ours, ours_grad = column.differentiate(rk.gather_logprobs, *given, upstream=upstream)
        assert_same_bits((*ours, ours_grad), tuple(t[part] for t in (*full, grad)))
        pair = column.differentiate(rk.exact_kl, logits[part], other[part], upstream=upstream)
        assert_same_bits(pair, (kl[part], kl_grad[part]))


@pytest.mark.parametrize("inplace", [False, True])
def test_a_row_of_the_objective_does_not_depend_on_its_batch(inplace, column):
    batch = make_batch(24, 1031, torch.bfloat16)
    terms = make_terms("all", batch[0], batch[1], batch[4]) | {"ptx_denominator": 11.0}

    def call(logits, *rest, **options):
        return rk.ppo_loss_from_logits(
            logits * 1, *rest, cliprange=CLIP, inplace=inplace, **options
        )

    _, full = column.differentiate(call, *batch, **terms)
    for part in slices(24):
        cut = {k: v[part] if isinstance(v, torch.Tensor) else v for k, v in terms.items()}
        _, grad = column.differentiate(call, *(t[part] for t in batch), **cut)
        assert torch.equal(grad, full[part])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_base_alignment_gives_the_same_bits(dtype, column):
    logits, targets = make_logits(1, 3001, dtype), make_targets(1, 3001)
    expected = column.run(rk.gather_logprobs, logits, targets)
    kl = column.run(rk.exact_kl, logits, logits.roll(5))
    for start in range(16 // dtype.itemsize + 1):
        memory = torch.full((3001 + 16,), torch.nan, dtype=dtype)
        memory[start : start + 3001] = logits[0]
        placed = memory[start : start + 3001][None]
        assert_same_bits(column.run(rk.gather_logprobs, placed, targets), expected)
        assert_same_bits(column.run(rk.exact_kl, placed, logits.roll(5)), kl)


@pytest.mark.parametrize("vocab", [7, 300, 2049])
@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_columns_are_not_read(dtype, vocab, column):
    logits, other = logits_pair((5, vocab), dtype)
    targets = make_targets(5, vocab)
    dense = column.differentiate(rk.gather_logprobs, logits, targets, upstream=torch.ones(5))
    padded = column.differentiate(
        rk.gather_logprobs, poison(logits), targets, upstream=torch.ones(5)
    )
    assert_same_bits((*padded[0], padded[1]), (*dense[0], dense[1]))
    kl = [column.run(rk.exact_kl, f(logits), f(other)) for f in (torch.clone, poison)]
    assert torch.equal(*kl)


def test_in_place_leaves_padding_columns_alone(column):
    batch = make_batch(5, 300, torch.bfloat16)
    wide = torch.full((5, 320), 7.0, dtype=torch.bfloat16)
    wide[:, :300] = batch[0]

    def call(memory, *rest):
        rk.ppo_loss_from_logits(memory[:, :300], *rest, cliprange=CLIP, inplace=True)
        return memory

    after = column.run(call, wide, *batch[1:])
    assert (after[:, 300:] == 7.0).all()
    assert (after[:, :300] != batch[0]).any()


@pytest.mark.parametrize("offset", [-1e4, 1e4])
def test_all_logits_far_from_zero(offset, column):
    logits, targets = make_logits(3, 2500) + offset, make_targets(3, 2500)
    ours = column.run(rk.gather_logprobs, logits, targets)
    assert_results_near_truth(ours, reference(logits, targets), plain_logprobs(logits, targets))


def test_entropy_does_not_change_with_a_shift(column):
    # Exponents are relative to a power of two, so that a shift changes their last bits.
    logits, targets = make_logits(2, 2500).round(), make_targets(2, 2500)
    near, far = (column.run(rk.gather_logprobs, x, targets) for x in (logits, logits + 1024))
    torch.testing.assert_close(near.entropy, far.entropy, rtol=0, atol=1e-6)
    torch.testing.assert_close(near.logprobs, far.logprobs, rtol=0, atol=4e-6)


def test_minus_infinity_in_leading_parts_and_at_the_target(column):
    logits, targets = make_logits(4, 5000), torch.tensor([4999, 10, 4999, 3000])
    logits[0, :4100] = -torch.inf
    logits[1, :4100] = -torch.inf
    logits[2, :-1] = -torch.inf
    logits[3, 100:] = -torch.inf
    ours = column.run(rk.gather_logprobs, logits, targets)
    assert_results_near_truth(ours, reference(logits, targets))
    assert ours.logprobs[1] == -torch.inf
    assert ours.logprobs[2] == 0.0
    assert ours.entropy[2] == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 1024, 2499])
def test_nan_and_plus_infinity_are_never_hidden(bad, place, column):
    logits = make_logits(2, 2500)
    logits[0] = -torch.inf
    logits[:, place] = bad
    ours = column.run(rk.gather_logprobs, logits, torch.tensor([1, 1]))
    assert ours.entropy.isnan().all()
    assert column.run(rk.exact_kl, logits, make_logits(2, 2500)).isnan().all()


def test_gradient_of_a_nearly_certain_target_keeps_its_digits(column):
    logits = make_logits(3, 2000)
    targets = torch.tensor([5, 1999, 700])
    logits[torch.arange(3), targets] = torch.tensor([25.0, 30.0, 34.0])
    _, grad = column.differentiate(rk.gather_logprobs, logits, targets, upstream=torch.ones(3))
    rest = logits.double().clone()
    rest[torch.arange(3), targets] = -torch.inf
    truth = torch.sigmoid(rest.logsumexp(-1) - logits.double()[torch.arange(3), targets])
    taken = grad.double()[torch.arange(3), targets]
    assert ((taken - truth).abs() / truth < 1e-4).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_kl_is_never_negative_and_zero_for_equal_inputs(dtype, column):
    x, y = logits_pair((4, 2049), dtype)
    near = x + (1e-3 * (y.float() - x.float())).to(dtype)
    assert (column.run(rk.exact_kl, x, near) >= 0).all()
    kl, grad = column.differentiate(rk.exact_kl, x, x, upstream=torch.ones(4))
    assert (kl == 0).all()
    assert (grad == 0).all()


def test_kl_of_peaked_rows_and_of_minus_infinity(column):
    x, y = logits_pair((5, 3000), torch.float32)
    x[0], y[0] = 0.0, 0.0
    x[0, 5], y[0, 9] = 120.0, 120.0
    x[1, :2500] = -torch.inf  # p = 0: contributes nothing
    y[2, 7] = -torch.inf  # q = 0 < p: infinite
    x[3, ::2] = -torch.inf
    y[3, ::2] = -torch.inf  # both
    kl = column.run(rk.exact_kl, x, y)
    assert kl[2] == torch.inf
    truth = reference_kl(x, y)
    size = truth.nan_to_num(posinf=1.0).clamp(min=1.0)
    assert_near_truth(kl / size, truth / size)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ratio_is_exactly_one_when_old_equals_new(dtype, column):
    logits, targets, _, advantages, mask = make_batch(12, 2049, dtype)
    old = column.run(rk.gather_logprobs, logits, targets, temperature=0.7).logprobs
    _, stats = column.run(
        rk.ppo_loss_from_logits,
        *(logits, targets, old, advantages, mask),
        cliprange=CLIP,
        temperature=0.7,
    )
    assert stats["ratio_max"] == 1.0
    assert stats["ratio_error"] == 0.0
    assert stats["approxkl"] == 0.0
    assert stats["clipfrac"] == 0.0


def test_in_place_and_out_of_place_agree_bit_for_bit(column):
    by_name = {case.name: case for case in ROWS}
    for terms in ("all", "k3", "exact"):
        case, twin = by_name[f"policy_{terms}"], by_name[f"policy_{terms}_in_place"]
        inputs = case.inputs((9, 700), torch.bfloat16)
        first = column.differentiate(case.op, *inputs)
        second = column.differentiate(twin.op, *inputs)
        assert_same_bits(({**named(first[0]), "grad": first[1]},),
                         ({**named(second[0]), "grad": second[1]},))  # fmt: skip

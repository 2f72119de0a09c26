"""gather_logprobs: values against float64 at the hard inputs, layouts and contract."""

import math

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.reference.gather_logprobs import gather_logprobs as reference
from tests.ops.logits import (
    DTYPES,
    LARGE_VOCABS,
    VOCABS,
    isa,
    make_logits,
    make_targets,
    poison,
    with_threads,
)
from tests.tolerances import FLOOR_DOUBLE, FLOOR_NATS, assert_near_truth

__all__ = ["isa"]


def torch32(logits, targets, temperature=1.0):
    """What fp32 torch gets for the same inputs."""
    z = logits.float() / temperature
    logp = z.log_softmax(-1)
    return (
        logp.gather(1, targets.long()[:, None])[:, 0],
        -(logp.exp() * logp).sum(-1),
        z.logsumexp(-1),
    )


def assert_matches(logits, targets, temperature=1.0):
    floor = FLOOR_DOUBLE * 1e2 if logits.dtype == torch.float64 else FLOOR_NATS
    ours = rk.gather_logprobs(logits, targets, temperature=temperature)
    truth = reference(logits, targets, temperature=temperature)
    for mine, right, plain in zip(ours, truth, torch32(logits, targets, temperature), strict=True):
        assert mine.dtype == (torch.float64 if logits.dtype == torch.float64 else torch.float32)
        assert_near_truth(mine, right, None if floor < 1e-9 else plain, floor=floor)
    assert (ours.logprobs <= 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", VOCABS)
def test_values_match_float64(isa, dtype, vocab):
    assert_matches(make_logits(3, vocab, dtype), make_targets(3, vocab))


@pytest.mark.parametrize("vocab", LARGE_VOCABS)
def test_values_match_float64_at_large_vocabularies(vocab):
    assert_matches(make_logits(2, vocab, torch.bfloat16), make_targets(2, vocab))


@pytest.mark.parametrize("temperature", [0.3, 1.7])
def test_temperature_scales_the_logits(isa, temperature):
    logits, targets = make_logits(4, 1000), make_targets(4, 1000)
    assert_matches(logits, targets, temperature)
    rows = torch.tensor([0.3, 1.0, 1.7, temperature])
    per_row = rk.gather_logprobs(logits, targets, temperature=rows)
    for row in range(4):
        one = rk.gather_logprobs(
            logits[row : row + 1], targets[row : row + 1], temperature=float(rows[row])
        )
        assert_near_truth(per_row.logprobs[row : row + 1], one.logprobs)


def test_a_fault_of_one_percent_in_the_temperature_is_seen():
    logits, targets = make_logits(4, 1000), make_targets(4, 1000)
    faulty = rk.gather_logprobs(logits, targets, temperature=1.01)
    truth = reference(logits, targets)
    for mine, right, plain in zip(faulty, truth, torch32(logits, targets), strict=True):
        with pytest.raises(AssertionError, match="error"):
            assert_near_truth(mine, right, plain)


@pytest.mark.parametrize("offset", [-1e4, 1e4])
def test_all_logits_far_from_zero(isa, offset):
    logits = make_logits(3, 5000) + offset
    targets = make_targets(3, 5000)
    assert_matches(logits, targets)


def test_entropy_does_not_change_with_a_shift(isa):
    logits = make_logits(2, 4000).round()  # integers, so that adding 2^10 is exact
    targets = make_targets(2, 4000)
    near, far = (rk.gather_logprobs(x, targets) for x in (logits, logits + 1024))
    assert torch.equal(near.entropy, far.entropy)
    assert torch.equal(near.logprobs, far.logprobs)


def test_minus_infinity_in_leading_blocks_and_at_the_target(isa):
    logits, targets = make_logits(4, 9000), torch.tensor([8999, 10, 8999, 5000])
    logits[0, :6000] = -torch.inf  # whole leading blocks
    logits[1, :6000] = -torch.inf  # and the target among them
    logits[2, :-1] = -torch.inf  # all but one
    logits[3, 100:] = -torch.inf  # trailing blocks
    ours = rk.gather_logprobs(logits, targets)
    truth = reference(logits, targets)
    for mine, right in zip(ours, truth, strict=True):
        assert_near_truth(mine, right)
    assert ours.logprobs[1] == -torch.inf
    assert ours.logprobs[2] == 0.0
    assert ours.entropy[2] == 0.0


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", [0, 2048, 4999])
def test_nan_and_plus_infinity_are_never_hidden(isa, bad, place):
    logits = make_logits(2, 5000)
    logits[0] = -torch.inf
    logits[:, place] = bad
    out = rk.gather_logprobs(logits, torch.tensor([1, 1]))
    assert out.entropy.isnan().all()
    assert out.logprobs[1].isnan() or bad == torch.inf


def test_masked_rows_give_zero_and_are_not_read(isa):
    logits, targets = make_logits(6, 300), make_targets(6, 300)
    mask = torch.tensor([True, False, True, False, False, True])
    expected = rk.gather_logprobs(logits, targets)
    logits[~mask] = torch.nan
    targets[~mask] = -100
    ours = rk.gather_logprobs(logits, targets, mask=mask)
    for mine, full in zip(ours, expected, strict=True):
        assert torch.equal(mine, torch.where(mask, full, 0.0))
    empty = rk.gather_logprobs(logits, targets, mask=torch.zeros(6, dtype=torch.bool))
    assert all((t == 0).all() for t in empty)


@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_columns_and_row_gaps_are_not_read(isa, dtype):
    logits, targets = make_logits(3, 2049, dtype), make_targets(3, 2049)
    expected = rk.gather_logprobs(logits, targets)
    ours = rk.gather_logprobs(poison(logits), targets)
    assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_base_alignment_gives_the_same_bits(isa, dtype):
    logits, targets = make_logits(1, 3001, dtype), make_targets(1, 3001)
    expected = rk.gather_logprobs(logits, targets)
    memory = torch.full((3001 + 16,), torch.nan, dtype=dtype)
    for start in range(16):
        memory[start : start + 3001] = logits[0]
        ours = rk.gather_logprobs(memory[start : start + 3001][None], targets)
        assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))
        memory.fill_(torch.nan)


def test_a_row_does_not_depend_on_its_batch_or_on_the_threads(isa):
    logits, targets = make_logits(70, 2500), make_targets(70, 2500)
    full = rk.gather_logprobs(logits, targets)
    for start, stop in ((0, 1), (63, 70), (5, 6)):
        part = rk.gather_logprobs(logits[start:stop], targets[start:stop])
        assert all(torch.equal(a, b[start:stop]) for a, b in zip(part, full, strict=True))
    single = with_threads(1, lambda: rk.gather_logprobs(logits, targets))
    assert all(torch.equal(a, b) for a, b in zip(single, full, strict=True))


def test_expanded_rows_are_right_and_other_layouts_are_refused():
    row, targets = make_logits(1, 100), make_targets(4, 100)
    expanded = rk.gather_logprobs(row.expand(4, 100), targets)
    repeated = rk.gather_logprobs(row.repeat(4, 1), targets)
    assert torch.equal(expanded.logprobs, repeated.logprobs)
    with pytest.raises(ValueError, match="'logits' must have its vocabulary consecutive"):
        rk.gather_logprobs(make_logits(100, 4).t(), targets)
    with pytest.raises(ValueError, match=r"'logits' must be \[N, V\]"):
        rk.gather_logprobs(row[None], targets)


def test_no_rows_and_more_rows_than_65535():
    empty = rk.gather_logprobs(torch.zeros(0, 50257), torch.zeros(0, dtype=torch.long))
    assert [t.shape for t in empty] == [(0,)] * 3
    many = rk.gather_logprobs(torch.zeros(70_000, 3), torch.zeros(70_000, dtype=torch.int32))
    assert_near_truth(many.logprobs, torch.full((70_000,), -math.log(3), dtype=torch.float64))


def test_int32_targets_equal_int64_targets():
    logits, targets = make_logits(5, 64), make_targets(5, 64)
    same = rk.gather_logprobs(logits, targets.int()).logprobs
    assert torch.equal(same, rk.gather_logprobs(logits, targets).logprobs)


@pytest.mark.parametrize("value", [-100, -1, 64, 2**40])
def test_a_target_out_of_range_on_a_row_that_counts_names_row_and_value(value):
    targets = make_targets(5, 64)
    targets[3] = value
    with pytest.raises(ValueError, match=rf"'targets' must lie in \[0, 64\).*{value} at row 3"):
        rk.gather_logprobs(make_logits(5, 64), targets)


@pytest.mark.parametrize("temperature", [0.0, -1.0, 1e-9, math.nan, math.inf])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    logits, targets = make_logits(2, 8), make_targets(2, 8)
    for value in (temperature, torch.tensor([1.0, temperature])):
        with pytest.raises(ValueError, match="'temperature' must be at least"):
            rk.gather_logprobs(logits, targets, temperature=value)


def test_errors_name_the_argument():
    logits, targets = make_logits(4, 8), make_targets(4, 8)
    for match, call in {
        "'targets' must have shape": lambda: rk.gather_logprobs(logits, targets[:3]),
        "'targets' must be int64": lambda: rk.gather_logprobs(logits, targets.float()),
        "'mask' must be bool": lambda: rk.gather_logprobs(logits, targets, mask=targets),
        "'logits' must be float32": lambda: rk.gather_logprobs(logits.int(), targets),
        "'logits' must have V >= 1": lambda: rk.gather_logprobs(logits[:, :0], targets),
    }.items():
        with pytest.raises(ValueError, match=match):
            call()


def test_an_unknown_instruction_set_is_refused(monkeypatch):
    monkeypatch.setenv("RLHF_KERNELS_ISA", "mmx")
    with pytest.raises(ValueError, match="RLHF_KERNELS_ISA=mmx is unknown"):
        rk.gather_logprobs(make_logits(1, 8), make_targets(1, 8))


def test_rows_beyond_two_to_the_31_elements():
    # Only the last row's pages are ever touched; the rest of the 4.3 GB stays unmapped.
    rows, vocab = 2**31 // 50257 + 2, 50257
    logits = torch.empty(rows, vocab, dtype=torch.bfloat16)
    logits[-1] = make_logits(1, vocab, torch.bfloat16)[0]
    mask = torch.zeros(rows, dtype=torch.bool)
    mask[-1] = True
    targets = torch.full((rows,), 11)
    ours = rk.gather_logprobs(logits, targets, mask=mask)
    alone = rk.gather_logprobs(logits[-1:].clone(), targets[:1])
    assert torch.equal(ours.entropy[-1:], alone.entropy)
    assert torch.equal(ours.logprobs[-1:], alone.logprobs)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_without_autograd(context):
    with context():
        logits, targets = make_logits(4, 60), make_targets(4, 60)
        expected = rk.gather_logprobs(logits, targets).logprobs
        loss, _ = rk.cross_entropy(logits, targets, inplace=True)
    assert_near_truth(loss, -expected.double().mean())

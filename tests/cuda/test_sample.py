"""sample on CUDA: its tokens and values, agreement with the CPU, truncation, invariance."""

import math

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.reference.gather_logprobs import gather_logprobs as reference
from rlhf_kernels.reference.sample import kept_probs
from tests.cuda.device import assert_same_bits
from tests.cuda.rules import DTYPES
from tests.ops.logits import make_logits, poison
from tests.ops.test_sample import assert_tokens_match, places
from tests.tolerances import assert_near_truth

OPTIONS = [
    {},
    {"temperature": 0.7},
    {"top_k": 5},
    {"top_p": 0.9},
    {"top_k": 50, "top_p": 0.6, "temperature": 1.3},
]


def assert_values_match(ours, logits, **options):
    """The log-probs and the entropy of the drawn tokens, against float64."""
    truth = reference(logits, ours.tokens, temperature=options.get("temperature", 1.0))
    assert_near_truth(ours.logprobs, truth[0])
    assert_near_truth(ours.entropy, truth[1])
    kept = kept_probs(logits, **options).gather(1, ours.tokens[:, None])[:, 0].log()
    assert_near_truth(ours.truncated_logprobs, kept)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [1, 2, 7, 31, 2047, 2049])
def test_tokens_and_values_match_float64(vocab, dtype, options, column):
    logits, where = make_logits(8, vocab, dtype), places(8)
    ours = column.run(rk.sample, logits, 11, *where, **options)
    assert_tokens_match(ours, logits, 11, *where, **options)
    assert_values_match(ours, logits, **options)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("vocab", [50257, 151936])
def test_vocabularies_of_real_models(vocab, options, column):
    if column.kind == "emulated":
        pytest.skip("emulated, a row of a real vocabulary takes seconds")
    logits, where = make_logits(8, vocab, torch.bfloat16), places(8)
    ours = column.run(rk.sample, logits, 11, *where, **options)
    assert_tokens_match(ours, logits, 11, *where, **options)
    assert_values_match(ours, logits, **options)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}], ids=str)
def test_log_probs_are_those_of_gather_logprobs_bit_for_bit(options, column):
    logits, where = make_logits(20, 2049, torch.bfloat16), places(20)
    drawn = column.run(rk.sample, logits, 3, *where, **options)
    read = column.run(rk.gather_logprobs, logits, drawn.tokens, **options)
    assert torch.equal(drawn.logprobs, read.logprobs)
    assert torch.equal(drawn.entropy, read.entropy)
    assert torch.equal(drawn.truncated_logprobs, drawn.logprobs)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_row_does_not_depend_on_its_batch_and_runs_repeat(options, column):
    logits, (rows, positions) = make_logits(20, 1031, torch.bfloat16), places(20)
    full = column.run(rk.sample, logits, 5, rows, positions, **options)
    assert_same_bits(column.run(rk.sample, logits, 5, rows, positions, **options), full)
    for part in (slice(0, 1), slice(3, 10), slice(19, 20)):
        ours = column.run(rk.sample, logits[part], 5, rows[part], positions[part], **options)
        assert_same_bits(ours, tuple_of(full, part))


def tuple_of(samples, part):
    return type(samples)(*(t[part] for t in samples))


def test_draws_follow_the_distribution(column):
    draws = 600 if column.kind == "emulated" else 100_000
    row = torch.tensor([2.0, 1.0, 0.0, -1.0, -torch.inf, 0.5, -1.5, 1.5])
    p = row.double().softmax(-1)
    tokens = column.run(
        rk.sample, row.expand(draws, 8), 1, torch.arange(draws), torch.zeros(draws).long()
    ).tokens
    counts = torch.bincount(tokens, minlength=8).double()
    assert counts[4] == 0
    kept = p > 0
    statistic = ((counts - draws * p).square()[kept] / (draws * p)[kept]).sum()
    assert statistic < 24.3  # chi-square with 6 degrees of freedom: exceeded once in 2000


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_minus_infinity_is_never_drawn_and_padding_not_read(options, column):
    logits, where = make_logits(12, 300), places(12)
    logits[:, ::2] = -torch.inf
    ours = column.run(rk.sample, logits, 2, *where, **options)
    assert (ours.tokens % 2 == 1).all()
    assert_same_bits(column.run(rk.sample, poison(logits), 2, *where, **options), ours)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf, "empty"])
def test_rows_without_a_distribution_give_minus_one_and_nan(bad, options, column):
    logits, where = make_logits(3, 300), places(3)
    if bad == "empty":
        logits[1] = -torch.inf
    else:
        logits[1, 299] = bad
    ours = column.run(rk.sample, logits, 2, *where, **options)
    assert ours.tokens[1] == -1
    assert ours.logprobs[1].isnan()
    assert (ours.tokens[[0, 2]] >= 0).all()


def test_errors_name_the_argument(column):
    logits, (rows, positions) = make_logits(3, 8), places(3)
    for match, call in {
        "float64 on a CUDA": lambda: column.run(rk.sample, logits.double(), 1, rows, positions),
        "'row_ids'": lambda: column.run(rk.sample, logits, 1, rows.int(), positions),
        "'top_p'": lambda: column.run(rk.sample, logits, 1, rows, positions, top_p=0.0),
    }.items():
        with pytest.raises(ValueError, match=match):
            call()

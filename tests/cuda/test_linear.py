"""Ops over a linear head on CUDA: float64, the CPU, chunks, masks; their kernels are the rows'."""

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.ops import _matmul
from rlhf_kernels.reference.linear_cross_entropy import linear_cross_entropy as reference_loss
from rlhf_kernels.reference.linear_logprobs import linear_logprobs as reference_logprobs
from rlhf_kernels.reference.linear_ppo_loss import linear_ppo_loss as reference_policy
from tests.cuda.rules import CPU, assert_results_near_truth, exact
from tests.ops.linear import CLIP, chunk_bytes, make_inputs, make_policy
from tests.ops.test_linear_ppo_loss import make_terms
from tests.tolerances import assert_gradient_near_truth


def call_logprobs(op, options):
    return lambda hidden, weight, bias, targets, mask: op(
        hidden, weight, targets, bias=bias, mask=mask, temperature=0.8, **options
    )


def call_policy(op, options):
    def call(hidden, weight, bias, targets, mask, old, advantages, terms):
        rows = (targets, old, advantages, mask)
        return op(hidden, weight, *rows, bias=bias, cliprange=CLIP, **terms, **options)

    return call


def by_weight(function):
    """The same function with the weight as its first argument."""
    return lambda weight, hidden, *rest: function(hidden, weight, *rest)


def check(make_call, op, reference, inputs, options, column):
    """Results and the gradients of hidden states and weight, within the truth rule."""
    hidden, weight, *rest = inputs
    upstream = torch.linspace(-1, 1, len(hidden)) if op is rk.linear_logprobs else 2.0
    upstream = (upstream,) * 3 if op is rk.linear_logprobs else upstream
    for wrap, first, second in ((lambda f: f, hidden, weight), (by_weight, weight, hidden)):
        ours, grad = column.differentiate(
            wrap(make_call(op, options)), first, second, *rest, upstream=upstream
        )
        twin, twin_grad = CPU.differentiate(
            wrap(make_call(op, {})), first, second, *rest, upstream=upstream
        )
        truth, truth_grad = CPU.differentiate(
            wrap(make_call(reference, {})), *exact((first, second, *rest)), upstream=upstream
        )
        assert_results_near_truth(ours, truth, twin)
        assert_gradient_near_truth(grad, truth_grad, twin_grad)


@pytest.mark.parametrize("rows", [7, None])
def test_log_probs_match_float64(rows, column):
    options = {"chunk_bytes": chunk_bytes(rows)}
    check(call_logprobs, rk.linear_logprobs, reference_logprobs, make_inputs(), options, column)


@pytest.mark.parametrize("rows", [7, None])
def test_cross_entropy_matches_float64(rows, column):
    options = {"chunk_bytes": chunk_bytes(rows)}
    check(call_logprobs, rk.linear_cross_entropy, reference_loss, make_inputs(), options, column)


@pytest.mark.parametrize("terms", ["plain", "k3", "exact", "ptx", "all", "capped"])
def test_the_objective_matches_float64(terms, column):
    inputs = hidden, weight, _, targets, mask = make_inputs()
    chosen = make_terms(terms, hidden, weight, targets, mask)
    inputs = (*inputs, *make_policy(hidden, weight, targets), chosen)
    check(call_policy, rk.linear_ppo_loss, reference_policy, inputs, {}, column)


@pytest.mark.parametrize("rows", [7, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_odd_vocabulary_in_two_products_matches_float64(dtype, rows, column, monkeypatch):
    """131 = 128 + 3, as 50257 = 50256 + 1."""
    monkeypatch.setattr(_matmul, "MULTIPLE", {"cpu": 8, "cuda": 8})
    monkeypatch.setattr(_matmul, "WORTHWHILE", 8)
    inputs, options = make_inputs(dtype=dtype), {"chunk_bytes": chunk_bytes(rows, dtype=dtype)}
    check(call_logprobs, rk.linear_logprobs, reference_logprobs, inputs, options, column)
    check(call_logprobs, rk.linear_cross_entropy, reference_loss, inputs, options, column)

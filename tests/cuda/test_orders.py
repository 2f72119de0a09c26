"""Emulated: the order in which threads and blocks run changes no bit of any result."""

import pytest
import torch

import rlhf_kernels as rk
from tests.cuda.cases import ROWS, TOKENS
from tests.cuda.device import assert_same_bits, named
from tests.cuda.rules import make_upstream
from tests.ops.logits import make_logits

ORDERS = ("forward", "reverse", "shuffled")


@pytest.fixture(autouse=True)
def needs_the_emulation(column):
    if column.kind != "emulated":
        pytest.skip("only the emulation can choose the order of threads")


def in_every_order(monkeypatch, call):
    results = []
    for order in ORDERS:
        monkeypatch.setenv("RLHF_EMULATION_ORDER", order)
        results.append(call())
    for other in results[1:]:
        assert_same_bits(other, results[0])


@pytest.mark.parametrize("case", TOKENS + ROWS, ids=str)
def test_results_do_not_depend_on_the_order_of_threads(case, column, monkeypatch):
    size = (5, 2051) if case in ROWS else 2500
    inputs = case.inputs(size, torch.float32)

    def call():
        if not case.gradient:
            return column.run(case.op, *inputs, **case.options)
        upstream = make_upstream(case, inputs, torch.float32)
        results, grad = column.differentiate(case.op, *inputs, upstream=upstream, **case.options)
        return ({**named(results), "grad": grad},)

    in_every_order(monkeypatch, call)


@pytest.mark.parametrize("options", [{}, {"top_k": 7}, {"top_p": 0.8}], ids=str)
def test_draws_do_not_depend_on_the_order_of_threads(options, column, monkeypatch):
    logits, rows = make_logits(6, 2051, torch.bfloat16), torch.arange(6)
    in_every_order(monkeypatch, lambda: column.run(rk.sample, logits, 3, rows, rows, **options))

"""What every case of tests/cuda is held to."""

from __future__ import annotations

import torch

from tests.cuda.device import Column, named
from tests.tolerances import FLOOR_NATS, assert_gradient_near_truth, assert_near_truth

CPU = Column("cpu")
#: float64 is the CPU's alone.
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def exact(values):
    """Widen floating tensors of nested inputs to float64."""
    if isinstance(values, torch.Tensor):
        return values.double() if values.is_floating_point() else values
    if isinstance(values, dict):
        return {name: exact(value) for name, value in values.items()}
    return tuple(exact(v) for v in values) if isinstance(values, tuple) else values


def make_upstream(case, inputs, dtype):
    """An upstream gradient that is not uniform, or a factor for a 0-d loss.

    In place, a factor other than 1 rounds a 16-bit gradient a second time.
    """
    results = CPU.run(case.op, *inputs, **case.options)
    first = results[0] if isinstance(results, tuple) else results
    if first.ndim == 0:
        return 1.0 if "in_place" in case.name and dtype != torch.float32 else 3.0
    weights = tuple(
        torch.linspace(-1, 1.3, first.numel()).roll(place).reshape(first.shape)
        for place in range(3)
    )
    return weights if isinstance(results, tuple) else weights[0]


def assert_results_near_truth(actual, truth, plain=None):
    """Every result within the truth rule, relative where the truth is above 1."""
    ours, right = named(actual), named(truth)
    twins = {} if plain is None else named(plain)
    assert set(right) <= set(ours)
    for name, value in right.items():
        finite = value[value.isfinite()].abs()
        size = max(1.0, finite.max().item() if finite.numel() else 0.0)
        assert ours[name].dtype == torch.float32, name
        assert_near_truth(ours[name], value, twins.get(name), floor=FLOOR_NATS * size)


def check_values(case, column, size, dtype):
    """Results and gradient against float64, and against the CPU column."""
    inputs = case.inputs(size, dtype)
    if not case.gradient:
        ours = column.run(case.op, *inputs, **case.options)
        assert_results_near_truth(ours, case.reference(*exact(inputs), **case.options))
        assert_results_near_truth(ours, exact_results(CPU.run(case.op, *inputs, **case.options)))
        return
    upstream = make_upstream(case, inputs, dtype)
    ours, grad = column.differentiate(case.op, *inputs, upstream=upstream, **case.options)
    truth, truth_grad = CPU.differentiate(
        case.reference, *exact(inputs), upstream=upstream, **case.options
    )
    host, _ = CPU.differentiate(case.op, *inputs, upstream=upstream, **case.options)
    plain = plain_grad = None
    if case.plain:
        leaf = inputs[0].float()
        plain, plain_grad = CPU.differentiate(case.plain, leaf, *inputs[1:], upstream=upstream)
    assert_results_near_truth(ours, truth, plain)
    assert_results_near_truth(ours, exact_results(host), plain)
    assert grad.dtype == dtype
    if grad.numel() and truth_grad.shape[-1] > 1:
        assert_gradient_near_truth(grad, truth_grad, plain_grad)


def exact_results(results):
    """The results as float64 under their names, to serve as the truth."""
    return ({name: value.double() for name, value in named(results).items()},)


def check_repeats(case, column, size, dtype=torch.bfloat16):
    """A second run gives the same bits, gradient included."""
    inputs = case.inputs(size, dtype)
    runs = []
    for _ in range(2):
        if case.gradient:
            upstream = make_upstream(case, inputs, dtype)
            results, grad = column.differentiate(
                case.op, *inputs, upstream=upstream, **case.options
            )
            runs.append(({**named(results), "grad": grad},))
        else:
            runs.append(({**named(column.run(case.op, *inputs, **case.options))},))
    first, second = (named(run) for run in runs)
    for name, value in first.items():
        assert torch.equal(value.nan_to_num(7), second[name].nan_to_num(7)), name

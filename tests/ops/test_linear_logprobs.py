"""linear_logprobs: equal to gather_logprobs over held logits, for any chunk, mask and head."""

import pytest
import torch
from torch.nn import functional

import rlhf_kernels as rk
from rlhf_kernels.reference.linear_logprobs import linear_logprobs as reference
from tests.ops.linear import ROWS, chunk_bytes, gradients, head_logits, leaves, make_inputs
from tests.tolerances import assert_gradient_near_truth, assert_near_truth

OPTIONS = [{}, {"temperature": 0.7}, {"softcap": 4.0}, {"softcap": 4.0, "logit_scale": 0.5}]


def run(function, inputs, **options):
    """The three results and the gradients of a sum in which every row has another weight."""
    hidden, weight, bias, targets, mask = inputs
    copies = leaves(hidden, weight, bias)
    results = function(*copies[:2], targets, bias=copies[2], mask=mask, **options)
    ramp = torch.linspace(-1, 1, len(hidden))
    total = sum((k * ramp.to(x.dtype) * x).sum() for k, x in zip((1, 0.5, 2), results, strict=True))
    return [x.detach() for x in results], gradients(total, *copies)


def over_logits(hidden, weight, targets, *, bias, mask, logit_scale=1.0, softcap=None, **options):
    logits = head_logits(hidden, weight, bias, logit_scale, softcap)
    return rk.gather_logprobs(logits, targets, mask=mask, **options)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_values_and_gradients_match_held_logits_and_float64(options, rows, masked):
    inputs = list(make_inputs())
    inputs[4] = inputs[4] if masked else None
    budget = chunk_bytes(rows, held=1 + ("softcap" in options))
    results, grads = run(rk.linear_logprobs, inputs, chunk_bytes=budget, **options)
    held, held_grads = run(over_logits, inputs, **options)
    exact = [x.double() if i < 3 else x for i, x in enumerate(inputs)]
    truth, true_grads = run(reference, exact, **options)
    for triple in zip(results, truth, held, strict=True):
        assert_near_truth(*triple)
    for triple in zip(grads, true_grads, held_grads, strict=True):
        assert_gradient_near_truth(*triple)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_match_held_logits(dtype, rows):
    inputs = make_inputs(dtype=dtype)
    results, grads = run(rk.linear_logprobs, inputs, chunk_bytes=chunk_bytes(rows, dtype=dtype))
    held, held_grads = run(over_logits, inputs)
    # One matrix product rounds its logits as the other, but for the order of a few sums.
    tolerance = {torch.float64: 1e-12, torch.float16: 1e-2}.get(dtype, 6e-2)
    for value, twin in zip(results, held, strict=True):
        assert value.dtype == twin.dtype
        assert (value - twin).abs().max() <= tolerance
    for grad, twin in zip(grads, held_grads, strict=True):
        assert grad.dtype == dtype
        assert (grad.double() - twin.double()).abs().max() <= tolerance * twin.abs().max()


def test_masked_rows_give_zero_and_get_gradient_zero():
    hidden, weight, bias, targets, mask = make_inputs()
    hidden[~mask], targets[~mask] = torch.nan, -100
    results, grads = run(rk.linear_logprobs, (hidden, weight, bias, targets, mask))
    assert all((x[~mask] == 0).all() for x in results)
    assert (grads[0][~mask] == 0).all()
    assert all(g.isfinite().all() for g in grads)


def test_no_rows():
    hidden, weight, bias, targets, mask = make_inputs(0)
    results, grads = run(rk.linear_logprobs, (hidden, weight, bias, targets, mask))
    assert all(x.shape == (0,) for x in results)
    assert (grads[1] == 0).all()


def test_autocast_computes_as_a_linear_layer_under_autocast():
    hidden, weight, bias, targets, mask = make_inputs()
    grads, values = [], []
    for function in (rk.linear_logprobs, over_logits):
        copies = leaves(hidden, weight, bias)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = function(*copies[:2], targets, bias=copies[2], mask=mask)
        values.append(out.logprobs.detach())
        grads.append(gradients(out.logprobs.sum(), *copies))
    assert values[0].dtype == torch.float32
    assert (values[0] - values[1]).abs().max() < 6e-2
    for ours, theirs in zip(*grads, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).abs().max() < 3e-2 * theirs.abs().max()
    exact, _ = run(reference, [hidden.double(), weight.double(), bias.double(), targets, mask])
    assert (values[0] - exact[0]).abs().max() > 1e-4  # 16 bits were used


def test_a_second_derivative_is_refused():
    hidden, weight, _, targets, _ = make_inputs(4, 3, 7)
    (leaf,) = leaves(weight)
    total = rk.linear_logprobs(hidden, leaf, targets).logprobs.sum()
    (grad,) = torch.autograd.grad(total, leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="has no derivative"):
        grad.sum().backward()


def test_gradcheck():
    hidden, weight, bias, targets, mask = make_inputs(5, 3, 7, torch.float64)
    budget = chunk_bytes(2, 7, torch.float64, held=2)
    assert torch.autograd.gradcheck(
        lambda h, w, b: tuple(
            rk.linear_logprobs(
                h, w, targets, bias=b, mask=mask, softcap=4.0, temperature=0.8, chunk_bytes=budget
            )
        ),
        leaves(hidden, weight, bias),
    )


def test_compiles_without_graph_breaks():
    hidden, weight, _, targets, mask = make_inputs()

    def loss(h, w):
        out = rk.linear_logprobs(torch.tanh(h), w, targets, mask=mask, chunk_bytes=chunk_bytes(8))
        return out.logprobs.sum() + out.entropy.mean()

    results = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        copies = leaves(hidden, weight)
        results.append(gradients(function(*copies), *copies))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_opcheck():
    hidden, weight, bias, targets, mask = make_inputs(5, 4, 9)
    op = torch.ops.rlhf_kernels.linear_logprobs.default
    copies = leaves(hidden, weight, bias)
    torch.library.opcheck(op, (*copies, targets, mask, 0.0, None, None, None, 1.0))


def test_the_gradient_in_place_equals_the_one_in_new_memory():
    hidden, weight, _, targets, mask = make_inputs()
    logits = functional.linear(hidden, weight)
    ops = torch.ops.rlhf_kernels
    *_, rows = ops.gather_logprobs(logits, targets, mask, None, 0.9)
    upstream = [torch.linspace(k, 1, len(hidden)) for k in (-1, 0, 2)]
    fresh = ops.gather_logprobs_backward(*upstream, logits, targets, rows)
    version = logits._version
    ops.gather_logprobs_backward_(*upstream, logits, targets, rows)
    assert torch.equal(logits, fresh)
    assert logits._version > version
    torch.library.opcheck(ops.gather_logprobs_backward_.default, (*upstream, fresh, targets, rows))


def test_errors_name_the_argument():
    hidden, weight, bias, targets, _ = make_inputs(4, 8, 9)
    for match, options in {
        r"'mask' must have shape \[4\]": {"mask": torch.ones(3, dtype=torch.bool)},
        r"'temperature' must have shape \[4\]": {"temperature": torch.ones(2)},
        "pass at least 1024": {"chunk_bytes": 512, "softcap": 3.0},
        "got 9 at row 1": {"targets": torch.tensor([0, 9, 1, 1])},
        "'temperature' must be at least 0.0001, got 0": {"temperature": 0.0},
    }.items():
        arguments = {"targets": targets, "bias": bias, **options}
        with pytest.raises(ValueError, match="^linear_logprobs: argument.* " + match):
            rk.linear_logprobs(hidden, weight, **arguments)

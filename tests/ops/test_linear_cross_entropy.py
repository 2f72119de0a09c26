"""linear_cross_entropy: equal to cross_entropy of the logits, for any chunk, mask and head."""

import pytest
import torch
from torch.nn import functional

import rlhf_kernels as rk
from rlhf_kernels.ops import _matmul
from rlhf_kernels.reference.linear_cross_entropy import linear_cross_entropy as reference
from tests.ops.linear import ROWS, chunk_bytes, gradients, head_logits, leaves, make_inputs
from tests.tolerances import assert_gradient_near_truth, assert_near_truth


def run(function, inputs, upstream=1.0, **options):
    """Loss and gradients of hidden, weight and bias."""
    hidden, weight, bias, targets, mask = inputs
    copies = leaves(hidden, weight, bias)
    loss = function(*copies[:2], targets, bias=copies[2], mask=mask, **options)
    loss = loss[0] if isinstance(loss, tuple) else loss
    return loss.detach(), gradients(upstream * loss, *copies)


def plain(hidden, weight, targets, *, bias, mask, temperature=1.0, logit_scale=1.0, softcap=None):
    logits = head_logits(hidden, weight, bias, logit_scale, softcap) / temperature
    kept = slice(None) if mask is None else mask
    return functional.cross_entropy(logits[kept].float(), targets[kept])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_loss_and_gradients_match_float64(dtype, rows, masked):
    inputs = list(make_inputs(dtype=dtype))
    inputs[4] = inputs[4] if masked else None
    budget = chunk_bytes(rows, dtype=dtype)
    loss, grads = run(rk.linear_cross_entropy, inputs, upstream=3.0, chunk_bytes=budget)
    exact = [x.double() if i < 3 else x for i, x in enumerate(inputs)]
    truth, true_grads = run(reference, exact, upstream=3.0)
    base, base_grads = run(plain, inputs, upstream=3.0)
    assert_near_truth(loss, truth, base)
    for grad, true_grad, base_grad, like in zip(
        grads, true_grads, base_grads, inputs, strict=False
    ):
        assert grad.dtype == like.dtype
        assert_gradient_near_truth(grad, true_grad, base_grad)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("options", [{"softcap": 4.0}, {"logit_scale": 0.25}, {"temperature": 0.7}])
def test_head_options_match_float64(options, rows):
    inputs = make_inputs()
    budget = chunk_bytes(rows, held=1 + ("softcap" in options))
    loss, grads = run(rk.linear_cross_entropy, inputs, chunk_bytes=budget, **options)
    exact = [x.double() if i < 3 else x for i, x in enumerate(inputs)]
    truth, true_grads = run(reference, exact, **options)
    base, base_grads = run(plain, inputs, **options)
    assert_near_truth(loss, truth, base)
    for triple in zip(grads, true_grads, base_grads, strict=True):
        assert_gradient_near_truth(*triple)


def test_softcap_and_scale_together_with_a_temperature_per_row():
    inputs = make_inputs()
    temperature = torch.linspace(0.5, 2.0, len(inputs[0]))
    options = {"softcap": 4.0, "logit_scale": 0.5, "temperature": temperature}
    loss, grads = run(
        rk.linear_cross_entropy, inputs, chunk_bytes=chunk_bytes(9, held=2), **options
    )
    exact = [x.double() if i < 3 else x for i, x in enumerate(inputs)]
    truth, true_grads = run(reference, exact, **options)
    assert_near_truth(loss, truth)
    for grad, true_grad in zip(grads, true_grads, strict=True):
        assert (grad - true_grad).abs().max() < 1e-5 * true_grad.abs().max()


@pytest.mark.parametrize("onednn", [False, True])
def test_both_matrix_libraries_agree_across_slabs(onednn, monkeypatch):
    inputs = make_inputs(vocab=1000)
    monkeypatch.setattr(_matmul, "SLAB", 96)
    monkeypatch.setattr(_matmul, "_mkl_keeps_to_avx2", lambda: onednn)
    loss, grads = run(rk.linear_cross_entropy, inputs, chunk_bytes=chunk_bytes(7, 1000))
    truth, true_grads = run(reference, inputs)
    assert_near_truth(loss, truth)
    for grad, true_grad in zip(grads, true_grads, strict=True):
        # One fp32 rounding for each chunk and slab that is added; a slab left out is of order 1.
        assert (grad - true_grad).abs().max() < 5e-6 * true_grad.abs().max()


def test_rows_outside_the_mask_are_not_read():
    hidden, weight, bias, targets, mask = make_inputs()
    clean, clean_grads = run(rk.linear_cross_entropy, (hidden, weight, bias, targets, mask))
    hidden[~mask], targets[~mask] = torch.nan, -100
    loss, grads = run(rk.linear_cross_entropy, (hidden, weight, bias, targets, mask))
    assert torch.equal(loss, clean)
    assert all(torch.equal(a, b) for a, b in zip(grads, clean_grads, strict=True))
    assert (grads[0][~mask] == 0).all()


def test_micro_batches_add_up_to_one_batch():
    hidden, weight, bias, targets, mask = make_inputs()
    whole, grads = run(rk.linear_cross_entropy, (hidden, weight, bias, targets, mask))
    count = float(mask.sum())
    parts = [
        run(
            rk.linear_cross_entropy,
            (hidden[i::3], weight, bias, targets[i::3], mask[i::3]),
            denominator=count,
        )
        for i in range(3)
    ]
    assert_near_truth(sum(loss for loss, _ in parts), whole)
    assert_gradient_near_truth(sum(g[1] for _, g in parts), grads[1].double())


def test_no_rows_and_no_row_that_counts():
    hidden, weight, bias, targets, _ = make_inputs()
    for n in (0, len(hidden)):
        mask = torch.zeros(n, dtype=torch.bool)
        loss, grads = run(rk.linear_cross_entropy, (hidden[:n], weight, bias, targets[:n], mask))
        assert loss == 0
        assert [g.shape for g in grads] == [hidden[:n].shape, weight.shape, bias.shape]
        assert all((g == 0).all() for g in grads)


def test_a_tied_weight_gets_the_sum_of_both_gradients():
    _, weight, _, targets, _ = make_inputs()
    ids = torch.arange(len(targets)) % len(weight)
    grads = []
    for function in (rk.linear_cross_entropy, None):
        (leaf,) = leaves(weight)
        hidden = torch.tanh(functional.embedding(ids, leaf))
        if function:
            loss = function(hidden, leaf, targets, chunk_bytes=chunk_bytes(8))[0]
        else:
            loss = functional.cross_entropy(hidden @ leaf.T, targets)
        loss.backward()
        grads.append(leaf.grad)
    assert (grads[0] - grads[1]).abs().max() < 1e-6 * grads[1].abs().max()


def test_sixteen_bit_weight_gradients_add_up_in_float32():
    # 512 equal rows: a bfloat16 sum stops growing at 256 times the term.
    hidden, weight, *_ = make_inputs(1, dtype=torch.bfloat16)
    hidden, targets = hidden.expand(512, -1).contiguous(), torch.zeros(512, dtype=torch.long)
    budget = chunk_bytes(1, dtype=torch.bfloat16)
    grads = []
    for dtype in (torch.bfloat16, torch.float64):
        copy = weight.detach().to(dtype).requires_grad_()
        loss = rk.linear_cross_entropy(
            hidden.to(dtype), copy, targets, chunk_bytes=budget * dtype.itemsize // 2
        )[0]
        loss.backward()
        grads.append(copy.grad.double())
    assert (grads[0] - grads[1]).abs().max() < 0.03 * grads[1].abs().max()


def test_errors_name_the_argument_and_the_fix():
    hidden, weight, bias, targets, mask = make_inputs(4, 8, 9)

    def call(*inputs, **options):
        return lambda: rk.linear_cross_entropy(*inputs, **options)

    for match, broken in {
        r"'hidden' must be \[N, D\], got \[1, 4, 8\]": call(hidden[None], weight, targets),
        r"'weight' must be \[V, 8\]": call(hidden, weight.T, targets),
        r"'bias' must have shape \[9\]": call(hidden, weight, targets, bias=bias[:3]),
        "'weight' is torch.bfloat16, but 'hidden' is torch.float32; convert": call(
            hidden, weight.bfloat16(), targets
        ),
        r"'targets' must have shape \[4\]": call(hidden, weight, targets[:2]),
        r"'targets' must lie in \[0, 9\) on rows that count, got 9 at row 2": call(
            hidden, weight, torch.tensor([0, -100, 9, 1]), mask=torch.tensor([1, 0, 1, 1]).bool()
        ),
        "'mask' must be bool": call(hidden, weight, targets, mask=mask.float()),
        "'chunk_bytes' is 511, but one row of logits takes 512 bytes; pass at least 512": call(
            hidden, weight, targets, chunk_bytes=511
        ),
        "'softcap' must be positive": call(hidden, weight, targets, softcap=0.0),
        "'logit_scale' must be positive": call(hidden, weight, targets, logit_scale=-1.0),
        "'temperature' must be": call(hidden, weight, targets, temperature=0.0),
        "'temperature' must be at least 0.0001 on every row": call(
            hidden, weight, targets, temperature=torch.tensor([1.0, 0.0, 1.0, 1.0])
        ),
        "'denominator' must be": call(hidden, weight, targets, denominator=0.0),
    }.items():
        with pytest.raises(ValueError, match="^linear_cross_entropy: argument.* " + match):
            broken()
    assert rk.linear_cross_entropy(hidden, weight, targets, chunk_bytes=512)[0] > 0


def test_any_layout_of_hidden_states_and_weight():
    hidden, weight, _, targets, _ = make_inputs()
    wide = torch.randn(len(hidden), 2 * hidden.shape[1])[:, ::2]
    for given in ((wide, weight), (hidden, weight.T.contiguous().T)):
        copies = [x.detach().requires_grad_() for x in given]
        loss = rk.linear_cross_entropy(*copies, targets, chunk_bytes=chunk_bytes(7))[0]
        grads = gradients(loss, *copies)
        twins = leaves(*given)
        truth = functional.cross_entropy(twins[0] @ twins[1].T, targets)
        assert_near_truth(loss, truth)
        for grad, twin in zip(grads, gradients(truth, *twins), strict=True):
            assert (grad - twin).abs().max() < 1e-6 * twin.abs().max()


def test_under_autocast_a_float32_weight_gets_its_float32_sum_also_compiled():
    hidden, weight, _, targets, mask = make_inputs()

    def loss(h, w):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return rk.linear_cross_entropy(h, w, targets, mask=mask, chunk_bytes=chunk_bytes(8))[0]

    results = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        copies = leaves(hidden, weight)
        results.append(gradients(function(*copies), *copies))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    grad = results[0][1]
    assert grad.dtype == torch.float32
    assert not torch.equal(grad, grad.bfloat16().float())

"""The products of a head in two parts, as a GPU computes them, against one product in float64."""

import pytest
import torch

from rlhf_kernels.ops import _matmul

VOCABS = [1, 7, 8, 131, 136]


@pytest.fixture(autouse=True)
def _as_a_gpu(monkeypatch):
    monkeypatch.setattr(_matmul, "MULTIPLE", {"cpu": 8})
    monkeypatch.setattr(_matmul, "WORTHWHILE", 8)
    monkeypatch.setattr(_matmul, "_use_onednn", lambda tensor: False)


def make(vocab, dtype, rows=45, size=24):
    """Hidden states, weight, bias, and logits with room between their rows."""
    draw = torch.Generator().manual_seed(vocab)
    hidden, weight, bias = (
        torch.randn(*shape, generator=draw).to(dtype)
        for shape in ((rows, size), (vocab, size), (vocab,))
    )
    space = torch.randn(rows, vocab + 13, generator=draw).to(dtype)
    return hidden, weight, bias, space


def assert_near(found, *terms):
    """Sums in float32; in 16 bits the whole is rounded once, and each term but the first."""
    rounding = 0.0 if found.dtype == torch.float32 else torch.finfo(found.dtype).eps / 2
    truth = torch.stack(terms).sum(0)
    rounded = truth.abs() + sum(term.abs() for term in terms[1:])
    assert ((found.double() - truth).abs() <= 1.001 * rounding * rounded + 2e-5).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab", VOCABS)
@pytest.mark.parametrize("with_bias", [False, True])
def test_logits(vocab, dtype, with_bias):
    hidden, weight, bias, space = make(vocab, dtype)
    around = space[:, vocab:].clone()
    _matmul.multiply_logits(hidden, weight, bias if with_bias else None, space[:, :vocab])
    truth = hidden.double() @ weight.double().T + (bias.double() if with_bias else 0.0)
    assert_near(space[:, :vocab], truth)
    assert torch.equal(space[:, vocab:], around)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab", VOCABS)
def test_the_gradient_of_hidden_states_rounds_little_twice(vocab, dtype):
    _, weight, _, space = make(vocab, dtype)
    dlogits = space[:, :vocab]
    found = _matmul.multiply_hidden(dlogits, weight)
    most = vocab // 8 * 8
    parts = slice(0, most or vocab), slice(most or vocab, vocab)
    assert_near(found, *(dlogits[:, part].double() @ weight[part].double() for part in parts))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab", VOCABS)
def test_the_gradient_of_the_weight(vocab, dtype, first):
    hidden, weight, _, space = make(vocab, dtype)
    dlogits = space[:, :vocab]
    truth = dlogits.double().T @ hidden.double() + (0.0 if first else weight.double())
    total = torch.full_like(weight, torch.nan) if first else weight.clone()
    _matmul.add_weight_gradient(dlogits, hidden, total, first)
    assert_near(total, truth)


def test_no_product_but_that_of_the_rest_is_over_an_odd_vocabulary():
    """131 = 128 + 3, 136 = 17 x 8; few are one product."""
    parts = {vocab: list(_matmul._parts(torch.empty(vocab, 1))) for vocab in VOCABS}
    assert parts == {
        1: [slice(0, 1)],
        7: [slice(0, 7)],
        8: [slice(0, 8)],
        131: [slice(0, 128), slice(128, 131)],
        136: [slice(0, 136)],
    }

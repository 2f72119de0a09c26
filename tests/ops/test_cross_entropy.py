"""cross_entropy: values, gradient, mask and denominator."""

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.reference.cross_entropy import cross_entropy as reference
from tests.ops.logits import make_logits, make_targets
from tests.tolerances import assert_gradient_near_truth, assert_near_truth


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab", [2, 31, 50257])
def test_loss_and_gradient_match_float64(vocab, dtype, inplace):
    logits, targets = make_logits(6, vocab, dtype), make_targets(6, vocab)
    mask = torch.tensor([True, True, False, True, False, True])
    targets[~mask] = -100
    leaf = logits.clone().requires_grad_()
    loss, stats = rk.cross_entropy(leaf * 1, targets, mask=mask, temperature=0.9, inplace=inplace)
    loss.backward()
    exact = logits.double().requires_grad_()
    truth = reference(exact, targets, mask=mask, temperature=0.9)
    truth.backward()
    plain = logits.float().requires_grad_()
    fp32 = torch.nn.functional.cross_entropy(plain / 0.9, targets)
    fp32.backward()
    assert_near_truth(loss, truth, fp32)
    assert torch.equal(stats["loss"], loss)
    assert_gradient_near_truth(leaf.grad, exact.grad, plain.grad)


def test_denominator_makes_micro_batches_add_up():
    logits, targets = make_logits(8, 100), make_targets(8, 100)
    whole, _ = rk.cross_entropy(logits, targets)
    parts = [
        rk.cross_entropy(logits[i : i + 2], targets[i : i + 2], denominator=8)[0]
        for i in range(0, 8, 2)
    ]
    assert_near_truth(torch.stack(parts).sum(), whole)


def test_a_vocabulary_padded_with_minus_infinity_equals_the_unpadded_one():
    logits, targets = make_logits(4, 100), make_targets(4, 100)
    padded = torch.full((4, 128), -torch.inf)
    padded[:, :100] = logits
    leaf = padded.requires_grad_()
    loss, _ = rk.cross_entropy(leaf, targets)
    loss.backward()
    assert_near_truth(loss, rk.cross_entropy(logits, targets)[0])
    assert (leaf.grad[:, 100:] == 0).all()


def test_a_target_out_of_range_is_refused():
    with pytest.raises(ValueError, match="got 9 at row 1"):
        rk.cross_entropy(make_logits(2, 9), torch.tensor([0, 9]))

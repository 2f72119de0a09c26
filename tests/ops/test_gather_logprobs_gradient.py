"""The gradient of gather_logprobs, and its identity in PyTorch."""

import math

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.reference.gather_logprobs import gather_logprobs as reference
from tests.ops.logits import DTYPES, isa, make_logits, make_targets, poison
from tests.tolerances import assert_gradient_near_truth

__all__ = ["isa"]


def gradient(function, logits, targets, weights, **options):
    """Gradient of a weighted sum of all three results."""
    leaf = logits.detach().clone().requires_grad_()
    results = function(leaf, targets, **options)
    sum((w.to(r.dtype) * r).sum() for w, r in zip(weights, results, strict=True)).backward()
    return leaf.grad


def plain(logits, targets, temperature=1.0):
    """The same in fp32 torch."""
    z = logits.float() / temperature
    logp = z.log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1)
    return logp.gather(1, targets[:, None])[:, 0], entropy, z.logsumexp(-1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", [1, 2, 31, 2049, 50257])
def test_gradients_match_float64(isa, dtype, vocab):
    logits, targets = make_logits(3, vocab, dtype), make_targets(3, vocab)
    # A different weight per row and result; scaled by V as a summed loss may be.
    scale = min(vocab, 1000) if dtype == torch.float16 else vocab  # fp16 ends at 65504
    weights = [scale * torch.tensor(w) for w in ([1.0, -2.0, 0.5], [0.3, 0, -1], [0, 0.2, 0.7])]
    ours = gradient(rk.gather_logprobs, logits, targets, weights)
    truth = gradient(reference, logits.double(), targets, weights)
    fp32 = gradient(plain, logits.float(), targets, weights)
    assert ours.dtype == dtype
    assert_gradient_near_truth(ours, truth, None if dtype == torch.float64 else fp32)


def test_log_prob_gradient_rows_sum_to_zero(isa):
    logits, targets = make_logits(3, 5000), make_targets(3, 5000)
    ones, zeros = torch.ones(3), torch.zeros(3)
    grad = gradient(rk.gather_logprobs, logits, targets, [ones, zeros, zeros])
    assert (grad.double().sum(-1).abs() / grad.abs().amax(-1)).max() < 1e-6


@pytest.mark.parametrize("gap", [10.0, 20.0, 30.0])
def test_gradient_of_the_true_class_as_its_probability_goes_to_one(isa, gap):
    logits = torch.zeros(1, 1000)
    logits[0, 7] = gap
    targets = torch.tensor([7])
    one, zero = torch.ones(1), torch.zeros(1)
    ours = gradient(rk.gather_logprobs, logits, targets, [one, zero, zero])
    truth = gradient(reference, logits.double(), targets, [one, zero, zero])
    # 1 - p is 1e-10 at a gap of 30: plain fp32 gives 0, and fp64 log_softmax loses four digits.
    rest = 999 * math.exp(-gap)
    truth[0, 7] = rest / (1 + rest)
    # An exponent of 43 bits held in fp32 is off by up to 43 * 2^-24 = 2.6e-6.
    assert (ours.double() / truth - 1).abs().max() < 3e-6


def test_masked_rows_get_gradient_zero_and_minus_infinity_gets_none(isa):
    logits, targets = make_logits(4, 100), make_targets(4, 100)
    logits[1] = torch.nan
    logits[0, 50:] = -torch.inf
    targets[0] = 3
    mask = torch.tensor([True, False, True, True])
    weights = [torch.ones(4), torch.full((4,), 0.5), torch.zeros(4)]
    grad = gradient(rk.gather_logprobs, logits, targets, weights, mask=mask)
    assert (grad[1] == 0).all()
    assert (grad[0, 50:] == 0).all()
    assert grad.isfinite().all()


def test_strided_logits_and_expanded_upstream_gradients(isa):
    logits, targets = make_logits(3, 77), make_targets(3, 77)
    leaf = poison(logits).detach().requires_grad_()
    rk.gather_logprobs(leaf, targets).logprobs.sum().backward()
    ones, zeros = torch.ones(3), torch.zeros(3)
    dense = gradient(rk.gather_logprobs, logits, targets, [ones, zeros, zeros])
    assert torch.equal(leaf.grad, dense)


def test_temperature_per_row_scales_the_gradient(isa):
    logits, targets = make_logits(3, 500), make_targets(3, 500)
    temperature = torch.tensor([0.5, 1.0, 2.0])
    weights = [torch.ones(3), torch.ones(3), torch.zeros(3)]
    ours = gradient(rk.gather_logprobs, logits, targets, weights, temperature=temperature)
    truth = gradient(reference, logits.double(), targets, weights, temperature=temperature)
    fp32 = gradient(plain, logits, targets, weights, temperature=temperature[:, None])
    assert_gradient_near_truth(ours, truth, fp32)


def test_opcheck():
    logits, targets = make_logits(3, 9).requires_grad_(), make_targets(3, 9)
    mask, rows = torch.tensor([True, False, True]), torch.tensor([0.5, 1.0, 2.0])
    op = torch.ops.rlhf_kernels.gather_logprobs.default
    torch.library.opcheck(op, (logits, targets, None, None, 1.0))
    torch.library.opcheck(op, (logits.detach(), targets, mask, rows, 1.0))


def test_gradcheck():
    logits, targets = make_logits(3, 9, torch.float64).requires_grad_(), make_targets(3, 9)
    mask = torch.tensor([True, False, True])
    assert torch.autograd.gradcheck(
        lambda x: tuple(rk.gather_logprobs(x, targets, temperature=0.7, mask=mask)), (logits,)
    )


def test_compiles_without_graph_breaks():
    logits, targets = make_logits(5, 33), make_targets(5, 33)

    def loss(x, y):
        out = rk.gather_logprobs(2 * x, y, temperature=0.9)
        return out.logprobs.sum() + out.entropy.mean()

    grads = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        leaf = logits.clone().requires_grad_()
        function(leaf, targets).backward()
        grads.append(leaf.grad)
    assert torch.equal(*grads)

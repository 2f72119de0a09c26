"""Around its own kernels an op runs next to none of torch's: each is one more launch on a GPU."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import rlhf_kernels as rk

#: Views, allocations, and names that stand in a profile above the kernel that they run.
FREE = {"as_strided", "detach", "empty", "empty_like", "empty_strided", "new_empty", "select"}
FREE |= {"ones", "unbind", "zeros", "zeros_like"}

LOGITS, OTHER_LOGITS = torch.randn(2, 64, requires_grad=True), torch.randn(2, 64)
TARGETS, ROW, ROW_MASK = torch.tensor([3, 5]), torch.randn(2), torch.ones(2, dtype=torch.bool)
TOKENS, MASK = torch.randn(2, 8, requires_grad=True), torch.ones(2, 8, dtype=torch.bool)
OLD, OTHERS = torch.randn(2, 8), torch.randn(2, 8)
SCORES = torch.randn(2, requires_grad=True)
RANKS, OFFSETS = torch.tensor([1, 2]), torch.tensor([0, 2])
POLICY = (TARGETS, ROW, ROW, ROW_MASK)

#: What is differentiated, with respect to what.
LOSSES = {
    "ppo_loss_from_logits": (
        lambda: rk.ppo_loss_from_logits(LOGITS, *POLICY, cliprange=0.2)[:1],
        LOGITS,
    ),
    "ppo_loss_from_logits in place": (
        lambda: rk.ppo_loss_from_logits(LOGITS, *POLICY, cliprange=0.2, inplace=True)[:1],
        LOGITS,
    ),
    "cross_entropy": (lambda: rk.cross_entropy(LOGITS, TARGETS)[:1], LOGITS),
    "gather_logprobs": (lambda: rk.gather_logprobs(LOGITS, TARGETS)[:1], LOGITS),
    "gather_logprobs, all three": (lambda: rk.gather_logprobs(LOGITS, TARGETS), LOGITS),
    "exact_kl": (lambda: (rk.exact_kl(LOGITS, OTHER_LOGITS),), LOGITS),
    "token_kl": (lambda: (rk.token_kl(TOKENS, OLD),), TOKENS),
    "ppo_loss": (lambda: rk.ppo_loss(TOKENS, OLD, OTHERS, MASK, cliprange=0.2)[:1], TOKENS),
    "value_loss": (
        lambda: rk.value_loss(TOKENS, OLD, OTHERS, MASK, cliprange_value=0.2)[:1],
        TOKENS,
    ),
    "ranking_loss": (lambda: rk.ranking_loss(SCORES, RANKS, OFFSETS)[:1], SCORES),
}
OTHER_CALLS = {
    "gae": lambda: rk.gae(OTHERS, OLD, MASK, gamma=1.0, lam=0.95, whiten=True),
    "shaped_rewards": lambda: rk.shaped_rewards(ROW, OTHERS, OLD, MASK, kl_coef=0.02),
    "advantages": lambda: rk.advantages(
        ROW, OTHERS, OLD, OTHERS, MASK, kl_coef=0.02, gamma=1.0, lam=0.95, whiten=True
    ),
    "sample": lambda: rk.sample(OTHER_LOGITS, 7, TARGETS, TARGETS, top_p=0.9),
}
NEEDED = {
    "cross_entropy": ["fill_", "zero_"],  # its mask, and the policy's, which is empty
    "gather_logprobs": ["zero_"],  # one gradient for the two results that nobody uses
}


def find_kernels(call):
    """Return the sorted names of torch's own kernels in a call."""
    call()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        call()
    names = (event.name.partition("aten::")[2] for event in found.events())
    return sorted(name for name in names if name and name not in FREE)


@pytest.mark.parametrize("op", LOSSES)
def test_a_loss_with_its_gradient(op):
    compute, leaf = LOSSES[op]
    upstream = [torch.ones_like(result) for result in compute()]
    found = find_kernels(lambda: torch.autograd.grad(compute(), leaf, upstream))
    assert found == NEEDED.get(op, [])


@pytest.mark.parametrize("op", OTHER_CALLS)
def test_a_call_without_gradient(op):
    assert find_kernels(OTHER_CALLS[op]) == []


def test_a_kernel_of_torch_is_seen():
    assert {"add", "mul"} <= set(find_kernels(lambda: OLD + ROW[0] * ROW[1]))


class Severed(torch.autograd.Function):
    """A copy that hands no gradient back."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return None


@pytest.mark.parametrize("op", LOSSES)
def test_a_result_without_gradient_gives_none(op):
    compute, leaf = LOSSES[op]
    severed = [Severed.apply(result) for result in compute()]
    upstream = [torch.ones_like(result) for result in severed]
    assert torch.autograd.grad(severed, leaf, upstream, allow_unused=True) == (None,)

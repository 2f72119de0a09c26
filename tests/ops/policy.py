"""Batches, variants and an fp32 twin of the policy objective, for its tests."""

import torch

import rlhf_kernels as rk
from tests.ops.logits import make_logits, make_targets

CLIP = 0.2


def make_batch(n, vocab, dtype=torch.float32):
    """Logits, targets, old log-probs near the new ones, advantages and a mask with holes."""
    generator = torch.Generator().manual_seed(3)
    logits, targets = make_logits(n, vocab, dtype), make_targets(n, vocab)
    logprobs = rk.gather_logprobs(logits, targets).logprobs
    old = logprobs + 0.3 * torch.randn(n, generator=generator).to(logprobs.dtype)
    advantages = torch.randn(n, generator=generator).to(logprobs.dtype)
    return logits, targets, old, advantages, torch.rand(n, generator=generator) > 0.3


def make_terms(name, logits, targets, mask):
    """The options of one variant of the objective."""
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(9))
    ref_logits = logits + (0.2 * noise).to(logits.dtype)
    ref_logprobs = rk.gather_logprobs(ref_logits, targets).logprobs
    ptx_mask = ~mask
    ptx_mask[0] = True
    return {
        "plain": {},
        "entropy": {"entropy_coef": 0.1},
        "k2": {"kl_coef": 0.3, "kl_estimator": "k2", "ref_logprobs": ref_logprobs},
        "k3": {"kl_coef": 0.3, "ref_logprobs": ref_logprobs},
        "exact": {"kl_coef": 0.3, "ref_logits": ref_logits},
        "ptx": {"ptx_mask": ptx_mask, "ptx_coef": 27.8, "ptx_denominator": 5.0},
        "all": {
            "entropy_coef": 0.02,
            "kl_coef": 0.1,
            "ref_logits": ref_logits,
            "ptx_mask": ptx_mask,
            "ptx_coef": 2.0,
            "denominator": 40.0,
        },
    }[name]


def loss_and_grad(function, batch, upstream=1.0, **options):
    leaf = batch[0].detach().clone().requires_grad_()
    loss, stats = function(leaf * 1, *batch[1:], cliprange=CLIP, **options)
    (loss * upstream).backward()
    return loss.detach(), leaf.grad, stats


def fp32_loss(logits, batch, options):
    """The same formulas in fp32 torch, at temperature 0.8."""
    _, targets, old, advantages, mask = batch

    def mean(values, where, count):
        return torch.where(where, values, 0.0).sum() / (where.sum() if count is None else count)

    logp = (logits.float() / 0.8).log_softmax(-1)
    taken, h = logp.gather(1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(-1)
    ratio = (taken - old).exp()
    clipped = -advantages * ratio.clamp(1 - CLIP, 1 + CLIP)
    term = torch.maximum(-advantages * ratio, clipped) - options.get("entropy_coef", 0.0) * h
    if "ref_logits" in options:
        logq = (options["ref_logits"].float() / 0.8).log_softmax(-1)
        term = term + options["kl_coef"] * (logp.exp() * (logp - logq)).sum(-1)
    elif "ref_logprobs" in options:
        d = options["ref_logprobs"] - taken
        k2 = options.get("kl_estimator") == "k2"
        term = term + options["kl_coef"] * (0.5 * d**2 if k2 else d.expm1() - d)
    loss = mean(term, mask, options.get("denominator"))
    if "ptx_mask" in options:
        ptx = mean(-taken, options["ptx_mask"], options.get("ptx_denominator"))
        loss = loss + options["ptx_coef"] * ptx
    return loss


def fp32_gradient(batch, options):
    """Autograd of `fp32_loss`, times 3."""
    leaf = batch[0].detach().clone().requires_grad_()
    (3 * fp32_loss(leaf, batch, options)).backward()
    return leaf.grad

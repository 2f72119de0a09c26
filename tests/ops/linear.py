"""Inputs of the tests of the ops over a linear head, and their twins over held logits."""

import torch
from torch.nn import functional

import rlhf_kernels as rk
from rlhf_kernels.ops._linear import pad

N, DIM, VOCAB = 45, 16, 131
CLIP = 0.2

#: Chunk sizes in rows: one, uneven ones, a multiple of 16, all.
ROWS = [1, 7, 16, None]


def make_inputs(n=N, dim=DIM, vocab=VOCAB, dtype=torch.float32, seed=0):
    """Hidden states, a weight that gives logits of sigma 3, a bias, targets, a mask with holes."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    hidden, weight, bias = normal(n, dim), 3 * normal(vocab, dim) / dim**0.5, normal(vocab)
    targets = torch.randint(vocab, (n,), generator=draw)
    mask = torch.rand(n, generator=draw) > 0.4
    return hidden.to(dtype), weight.to(dtype), bias.to(dtype), targets, mask


def make_policy(hidden, weight, targets, seed=1):
    """Old log-probs near the new ones, and advantages."""
    draw = torch.Generator().manual_seed(seed)
    logprobs = rk.gather_logprobs(hidden @ weight.T, targets).logprobs
    old = logprobs + 0.3 * torch.randn(len(targets), generator=draw).to(logprobs.dtype)
    return old, torch.randn(len(targets), generator=draw).to(logprobs.dtype)


def chunk_bytes(rows, vocab=VOCAB, dtype=torch.float32, held=1):
    """The budget of so many rows."""
    return None if rows is None else rows * held * pad(vocab) * dtype.itemsize


def head_logits(hidden, weight, bias=None, logit_scale=1.0, softcap=None):
    """The logits as a model's head forms them."""
    logits = functional.linear(hidden, weight, bias) * logit_scale
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def gradients(loss, *inputs):
    return torch.autograd.grad(loss, [x for x in inputs if x is not None])


def leaves(*tensors):
    """Copies that require gradients; None stays."""
    return [None if x is None else x.detach().clone().requires_grad_() for x in tensors]

"""What the tests of the token losses share: inputs, and properties every masked op must have."""

import torch
from torch import Tensor

from tests.tolerances import FLOOR_NATS, assert_near_truth

#: empty, one, odd row, masked rows past a block of 4096 and a threaded region of 32768.
SHAPES = [(0,), (1,), (3, 7), (5, 0), (4097,), (67, 1023)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def make_tokens(*shape, count, dtype=torch.float32, seed=0, kept=0.6):
    """Return `count` normal tensors of `shape` and a mask that keeps a share of them."""
    generator = torch.Generator().manual_seed(seed)
    tensors = [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)
    ]
    return (*tensors, torch.rand(shape, generator=generator) < kept)


def both_passes(function, inputs, upstream):
    """Return the result and the gradients of the inputs."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    y = function(*inputs)
    return [y.detach(), *torch.autograd.grad(y, inputs, upstream)]


def result_dtype(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def poison(tensor: Tensor, mask: Tensor) -> Tensor:
    """Put NaN and infinities where the mask is False."""
    holes = torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=tensor.dtype)
    return torch.where(mask, tensor, holes[torch.arange(tensor.numel()) % 3].view(tensor.shape))


def assert_stats_near_truth(stats: dict[str, Tensor], truth: dict[str, Tensor]) -> None:
    """Every statistic within fp32 rounding of the truth, relative where that is above 1."""
    assert list(stats) == list(truth)
    for name, value in stats.items():
        assert value.shape == (), name
        assert not value.requires_grad, name
        assert_near_truth(value, truth[name], floor=FLOOR_NATS * max(1.0, abs(float(truth[name]))))


def run_with_threads(count, call):
    """Return call() under `count` threads; the fixture `fixed_threads` restores the number."""
    torch.set_num_threads(count)
    return call()

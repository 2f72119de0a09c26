"""gelu_tanh over the hidden units of a feed-forward layer, both passes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import gelu

import rlhf_kernels as rk
from rlhf_kernels.bench import inputs
from rlhf_kernels.bench.cases import Case, Provider, Results, Settings, make_again
from rlhf_kernels.bench.providers import Function, race
from rlhf_kernels.reference.gelu_tanh import gelu_tanh as reference


def ours(x: Tensor) -> Tensor:
    """Call the op."""
    return rk.gelu_tanh(x)


def plain(x: Tensor) -> Tensor:
    """Call torch's own kernel."""
    return gelu(x, approximate="tanh")


def written_out(x: Tensor) -> Tensor:
    """Write it out as transformers' `gelu_new` does, which GPT-2's own config names."""
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x.pow(3.0))))


def make_cases(settings: Settings) -> Iterator[Case]:
    """Yield both passes on the units of a small model and of GPT-2's 125M; none on a GPU."""
    if settings.device != "cpu":
        return
    shapes = ((704, 512),) if settings.quick else ((704, 512), (2048, 3072))
    for shape in (settings.shape,) if settings.shape else shapes:
        for dtype in settings.pick_dtypes(torch.float32, torch.bfloat16):
            yield make_again(make_case, shape, dtype, settings.device)


def make_case(shape: tuple[int, int], dtype: torch.dtype, device: str = "cpu") -> Case:
    """Build one case: forward reads x and writes y, backward reads x and a gradient, writes one."""
    draw = inputs.make_generator()
    x = (1.5 * torch.randn(shape, generator=draw)).to(device, dtype).requires_grad_()
    upstream = torch.randn(shape, generator=draw).to(device, dtype)
    count, size = x.numel(), dtype.itemsize

    def call(function: Function) -> Results:
        y = function(x)
        return {"y": y, "grad": torch.autograd.grad(y, x, upstream)[0]}

    def truth() -> Results:
        wide = x.detach().double().requires_grad_()
        y = reference(wide)
        return {"y": y, "grad": torch.autograd.grad(y, wide, upstream.double())[0]}

    return Case(
        op="gelu_tanh",
        mode="forward+backward",
        shape=shape,
        dtype=dtype,
        N=shape[0],
        D=shape[1],
        bytes_read=3 * count * size,
        bytes_written=2 * count * size,
        truth=truth,
        providers=[
            *race(ours, plain, call, device),
            Provider(name="gelu_new", run=lambda: call(written_out)),
        ],
    )

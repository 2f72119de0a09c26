"""feed_forward over the positions of a batch, both passes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

import rlhf_kernels as rk
from rlhf_kernels.bench import inputs, lowered
from rlhf_kernels.bench.cases import Case, Results, Settings, make_again
from rlhf_kernels.bench.providers import Function, race
from rlhf_kernels.reference.feed_forward import feed_forward as reference

NAMES = ("hidden", "norm_weight", "norm_bias", "up_weight", "up_bias", "down_weight", "down_bias")


def ours(*leaves: Tensor, bf16: bool = False) -> Tensor:
    """Call the op."""
    return rk.feed_forward(*leaves, bf16=bf16)


def plain(
    hidden: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
) -> Tensor:
    """Write it out in torch's operators, as transformers' GPT-2 does."""
    normalized = layer_norm(hidden, hidden.shape[-1:], norm_weight, norm_bias)
    inner = gelu(torch.addmm(up_bias, normalized, up_weight), approximate="tanh")
    return hidden + torch.addmm(down_bias, inner, down_weight)


def make_cases(settings: Settings) -> Iterator[Case]:
    """Yield both passes on the rows of small models, 64 x 11 and 16 x 127; none on a GPU."""
    if settings.device != "cpu":
        return
    shapes = [(704, 128, 512)]
    if not settings.quick:
        shapes.append((2032, 384, 1536))
    if settings.shape:
        rows, columns = settings.shape
        width = -(-columns // 16) * 16  # what the kernel takes
        shapes = [(rows, width, 4 * width)]
    for shape in shapes:
        for dtype in settings.pick_dtypes(torch.float32, torch.bfloat16):
            yield make_again(make_case, shape, dtype, settings.device)


def make_leaves(shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> list[Tensor]:
    """Draw hidden states, a norm and two weights, of results of order 1."""
    rows, width, inner = shape
    draw = inputs.make_generator()
    leaves = [
        torch.randn(rows, width, generator=draw),
        1 + 0.1 * torch.randn(width, generator=draw),
        0.1 * torch.randn(width, generator=draw),
    ]
    for size, out in ((width, inner), (inner, width)):
        leaves.append(size**-0.5 * torch.randn(size, out, generator=draw))
        leaves.append(0.1 * torch.randn(out, generator=draw))
    return [x.to(device, dtype).requires_grad_() for x in leaves]


def make_case(shape: tuple[int, int, int], dtype: torch.dtype, device: str = "cpu") -> Case:
    """Build one case, [N, D, F]: both passes read inputs, the second writes a gradient of each."""
    kept = lowered.held(dtype)
    leaves = make_leaves(shape, kept, device)
    upstream = torch.randn(shape[:2], generator=inputs.make_generator(1)).to(device, kept)
    count, each = sum(x.numel() for x in leaves), kept.itemsize

    def differentiate(y: Tensor, leaves: list[Tensor], grad: Tensor) -> Results:
        grads = torch.autograd.grad(y, leaves, grad)
        return {"y": y, **{f"grad_{name}": x for name, x in zip(NAMES, grads, strict=True)}}

    def call(function: Function) -> Results:
        return differentiate(function(*leaves), leaves, upstream)

    def truth() -> Results:
        wide = [x.detach().double().requires_grad_() for x in leaves]
        return differentiate(reference(*wide), wide, upstream.double())

    return Case(
        op="feed_forward",
        mode="forward+backward",
        shape=shape,
        dtype=dtype,
        N=shape[0],
        D=shape[1],
        bytes_read=(2 * count + upstream.numel()) * each,
        bytes_written=(count + upstream.numel()) * each,
        truth=truth,
        providers=race(*lowered.pair(ours, plain, dtype), call, device),
    )

"""self_attention over the sequences of a batch, both passes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear, scaled_dot_product_attention

import rlhf_kernels as rk
from rlhf_kernels.bench import inputs, lowered
from rlhf_kernels.bench.cases import Case, Results, Settings, make_again
from rlhf_kernels.bench.providers import Function, race
from rlhf_kernels.reference.self_attention import self_attention as reference

NAMES = ("hidden", "norm_weight", "norm_bias", "in_weight", "in_bias", "out_weight", "out_bias")


def ours(*leaves: Tensor, heads: int, bf16: bool = False) -> Tensor:
    """Call the op."""
    return rk.self_attention(*leaves, heads=heads, bf16=bf16)


def plain(
    hidden: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    in_weight: Tensor,
    in_bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    *,
    heads: int,
) -> Tensor:
    """Write it out in torch's operators, as transformers' GPT-2 does."""
    normalized = layer_norm(hidden, hidden.shape[-1:], norm_weight, norm_bias)
    states = linear(normalized, in_weight.T, in_bias).chunk(3, dim=-1)
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in states)
    attended = scaled_dot_product_attention(query, key, value, is_causal=True)
    return hidden + linear(attended.transpose(1, 2).flatten(2), out_weight.T, out_bias)


def make_cases(settings: Settings) -> Iterator[Case]:
    """Yield both passes on short and middling sequences of small models; none on a GPU."""
    if settings.device != "cpu":
        return
    shapes = [(64, 11, 4, 32)]
    if not settings.quick:
        shapes.append((16, 127, 6, 64))
    if settings.shape:
        length, size = settings.shape
        shapes = [(2, length, 16, size)]  # 16 heads: the kernel takes features of any size
    for shape in shapes:
        for dtype in settings.pick_dtypes(torch.float32, torch.bfloat16):
            yield make_again(make_case, shape, dtype, settings.device)


def make_leaves(shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> list[Tensor]:
    """Draw hidden states, a norm and two weights, of results of order 1."""
    width = shape[2]
    draw = inputs.make_generator()
    leaves = [
        torch.randn(shape, generator=draw),
        1 + 0.1 * torch.randn(width, generator=draw),
        0.1 * torch.randn(width, generator=draw),
    ]
    for out in (3 * width, width):
        leaves.append(width**-0.5 * torch.randn(width, out, generator=draw))
        leaves.append(0.1 * torch.randn(out, generator=draw))
    return [x.to(device, dtype).requires_grad_() for x in leaves]


def make_case(shape: tuple[int, int, int, int], dtype: torch.dtype, device: str = "cpu") -> Case:
    """Build one case, [B, L, H, D / H]: as feed_forward's; what is kept between counts for none."""
    batch, length, heads, size = shape
    kept = lowered.held(dtype)
    leaves = make_leaves((batch, length, heads * size), kept, device)
    upstream = torch.randn(leaves[0].shape, generator=inputs.make_generator(1)).to(device, kept)
    count, each = sum(x.numel() for x in leaves), kept.itemsize

    def differentiate(y: Tensor, leaves: list[Tensor], grad: Tensor) -> Results:
        grads = torch.autograd.grad(y, leaves, grad)
        return {"y": y, **{f"grad_{name}": x for name, x in zip(NAMES, grads, strict=True)}}

    def call(function: Function) -> Results:
        return differentiate(function(*leaves, heads=heads), leaves, upstream)

    def truth() -> Results:
        wide = [x.detach().double().requires_grad_() for x in leaves]
        return differentiate(reference(*wide, heads=heads), wide, upstream.double())

    return Case(
        op="self_attention",
        mode="forward+backward",
        shape=shape,
        dtype=dtype,
        N=batch * length,
        D=heads * size,
        bytes_read=(2 * count + upstream.numel()) * each,
        bytes_written=(count + upstream.numel()) * each,
        truth=truth,
        providers=race(*lowered.pair(ours, plain, dtype), call, device),
    )

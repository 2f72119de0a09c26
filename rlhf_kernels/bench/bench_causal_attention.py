"""causal_attention over the heads of a layer, both passes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import rlhf_kernels as rk
from rlhf_kernels.bench import inputs
from rlhf_kernels.bench.cases import Case, Provider, Results, Settings, make_again
from rlhf_kernels.bench.providers import Function, race
from rlhf_kernels.reference.causal_attention import causal_attention as reference


def ours(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Call the op."""
    return rk.causal_attention(query, key, value)


def plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Call torch's own, fused."""
    attended = scaled_dot_product_attention(query, key, value, is_causal=True)
    return attended.transpose(1, 2).contiguous()


def products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Write it out as transformers' eager attention does."""
    length = query.shape[2]
    later = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    scores = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
    shares = scores.masked_fill(later, float("-inf")).softmax(-1, dtype=torch.float32)
    return (shares.to(query.dtype) @ value).transpose(1, 2).contiguous()


def make_cases(settings: Settings) -> Iterator[Case]:
    """Yield both passes on short, middling and long sequences; none on a GPU."""
    if settings.device != "cpu":
        return
    shapes = [(64, 4, 11, 32), (8, 6, 128, 64)]
    if not settings.quick:
        shapes += [(4, 12, 512, 64), (1, 12, 1024, 64)]
    for shape in [(2, 4, *settings.shape)] if settings.shape else shapes:
        for dtype in settings.pick_dtypes(torch.float32, torch.bfloat16):
            yield make_again(make_case, shape, dtype, settings.device)


def make_case(shape: tuple[int, int, int, int], dtype: torch.dtype, device: str = "cpu") -> Case:
    """Build one case, [B, H, L, D]: states as a layer makes them, packed, and a gradient."""
    batch, heads, length, size = shape
    draw = inputs.make_generator()
    packed = torch.randn(batch, length, 3, heads, size, generator=draw).to(device, dtype)
    states = [x.transpose(1, 2).requires_grad_() for x in packed.unbind(2)]
    upstream = torch.randn(batch, length, heads, size, generator=draw).to(device, dtype)
    count, each = upstream.numel(), dtype.itemsize

    def differentiate(y: Tensor, leaves: list[Tensor], grad: Tensor) -> Results:
        grads = torch.autograd.grad(y, leaves, grad)
        names = ("grad_query", "grad_key", "grad_value")
        return {"attended": y, **dict(zip(names, grads, strict=True))}

    def call(function: Function) -> Results:
        return differentiate(function(*states), states, upstream)

    def truth() -> Results:
        wide = [x.detach().double().requires_grad_() for x in states]
        return differentiate(reference(*wide), wide, upstream.double())

    return Case(
        op="causal_attention",
        mode="forward+backward",
        shape=shape,
        dtype=dtype,
        N=batch * heads * length,
        D=size,
        bytes_read=7 * count * each,
        bytes_written=4 * count * each,
        truth=truth,
        providers=[
            *race(ours, plain, call, device),
            Provider(name="products", run=lambda: call(products)),
        ],
    )

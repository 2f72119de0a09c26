"""decoder_layers: a whole pass over the sequences of a batch, and one step with a cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear, scaled_dot_product_attention

import rlhf_kernels as rk
from rlhf_kernels.bench import inputs, lowered
from rlhf_kernels.bench.bench_feed_forward import plain as feed
from rlhf_kernels.bench.cases import Case, Results, Settings, make_again
from rlhf_kernels.bench.providers import Function, race
from rlhf_kernels.reference.decoder_layers import decoder_layers as reference

LAYERS = 3
#: Places of a cache after those that it holds, the new position's included.
FREE = 6

Layers = Sequence[Sequence[Tensor]]
Cache = Sequence[tuple[Tensor, Tensor]]


def ours(
    hidden: Tensor, layers: Layers, cache: Cache, used: int, heads: int, *, bf16: bool = False
) -> Tensor:
    """Call the op."""
    return rk.decoder_layers(hidden, layers, heads=heads, cache=cache, used=used, bf16=bf16)


def plain(hidden: Tensor, layers: Layers, cache: Cache, used: int, heads: int) -> Tensor:
    """Write it out in torch's operators, as transformers' GPT-2 does."""
    for place, layer in enumerate(layers):
        norm_weight, norm_bias, in_weight, in_bias, out_weight, out_bias = layer[:6]
        normalized = layer_norm(hidden, hidden.shape[-1:], norm_weight, norm_bias)
        states = linear(normalized, in_weight.T, in_bias).chunk(3, dim=-1)
        query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in states)
        if cache:
            keys, values = cache[place]
            keys[:, :, used : used + 1], values[:, :, used : used + 1] = key, value
            key, value = keys[:, :, : used + 1], values[:, :, : used + 1]
        attended = scaled_dot_product_attention(query, key, value, is_causal=not cache)
        hidden = hidden + linear(attended.transpose(1, 2).flatten(2), out_weight.T, out_bias)
        hidden = feed(hidden.flatten(0, 1), *layer[6:]).view_as(hidden)
    return hidden


def make_cases(settings: Settings) -> Iterator[Case]:
    """Yield whole passes of a small model, and a step of it; none on a GPU."""
    if settings.device != "cpu":
        return
    shapes = [(64, 11, 4, 32, 0)]
    if not settings.quick:
        shapes.append((128, 13, 4, 32, 0))
    shapes.append((128, 1, 4, 32, 10))
    if settings.shape:
        length, size = settings.shape  # 16 heads: the kernel takes features of any size
        shapes = [(2, length, 16, size, 0), (2, 1, 16, size, length)]
    for shape in shapes:
        for dtype in settings.pick_dtypes(torch.float32, torch.bfloat16):
            yield make_again(make_case, shape, dtype, settings.device)


def make_layers(width: int, dtype: torch.dtype, device: str) -> list[list[Tensor]]:
    """Draw what `decoder_layers` takes as `layers`, of results of order 1."""
    draw = inputs.make_generator()

    def make_norm() -> list[Tensor]:
        weight, bias = 0.1 * torch.randn(2, width, generator=draw)
        return [1 + weight, bias]

    def make_matrix(size: int, out: int) -> list[Tensor]:
        weight = size**-0.5 * torch.randn(size, out, generator=draw)
        return [weight, 0.1 * torch.randn(out, generator=draw)]

    layers = []
    for _ in range(LAYERS):
        layer = make_norm() + make_matrix(width, 3 * width) + make_matrix(width, width)
        layer += make_norm() + make_matrix(width, 4 * width) + make_matrix(4 * width, width)
        layers.append([x.to(device, dtype) for x in layer])
    return layers


def make_cache(
    batch: int, heads: int, used: int, size: int, dtype: torch.dtype, device: str
) -> list[tuple[Tensor, Tensor]]:
    """Draw keys and values of each layer, with room for more positions than are used."""
    draw = inputs.make_generator(1)
    shape = (2 * LAYERS, batch, heads, used + FREE, size)
    drawn = torch.randn(shape, generator=draw).to(device, dtype)
    return list(zip(drawn[:LAYERS], drawn[LAYERS:], strict=True))


def make_case(
    shape: tuple[int, int, int, int, int], dtype: torch.dtype, device: str = "cpu"
) -> Case:
    """Build one case, [B, L, H, D / H, positions held]: a step reads those of its cache."""
    batch, length, heads, size, used = shape
    width = heads * size
    kept = lowered.held(dtype)
    layers = make_layers(width, kept, device)
    hidden = torch.randn(batch, length, width, generator=inputs.make_generator(2))
    hidden = hidden.to(device, kept)
    cache = make_cache(batch, heads, used, size, kept, device) if used else []
    weights = sum(x.numel() for layer in layers for x in layer)
    states = 2 * LAYERS * batch * width if used else 0  # keys and values of one position

    def call(function: Function) -> Results:
        with torch.no_grad():
            return {"y": function(hidden, layers, cache, used, heads)}

    def truth() -> Results:
        return {"y": reference(hidden, layers, heads=heads, cache=cache, used=used)}

    return Case(
        op="decoder_layers",
        mode="step" if used else "forward",
        shape=shape,
        dtype=dtype,
        N=batch * length,
        D=width,
        bytes_read=(hidden.numel() + weights + states * used) * kept.itemsize,
        bytes_written=(hidden.numel() + states) * kept.itemsize,
        truth=truth,
        providers=race(*lowered.pair(ours, plain, dtype), call, device),
    )

"""What one call of the kernels takes of a GPT-2's pass: whether they compute it, and with what.

`trunk.py` has the model that asks.

Dims: B sequences, L positions, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.models.gpt2.modeling_gpt2 import GPT2Model

from toolkit.models.attention import is_short
from toolkit.models.cache import RoomyLayer
from toolkit.models.last_layer import LastLayer
from toolkit.models.layers import FusedBlock, are_many, in_bf16, is_untouched

#: Numbers in the weights of all layers, up to which every call may lay them out anew, in 64 MB; and
#: up to which that pays for any rows, where above it takes some hundred. Ours as a share of the
#: halves' time, two threads of a Xeon, weights laid out in the call: 4 layers of 256, 2000 rows .77
#: to .81; 6 of 384 .78 to .86.
_MOST = 1 << 24
_SMALL = 1 << 20
_MANY_ROWS = 512
#: A thread reads all weights for its sequences, so that larger weights want some rows for each of
#: many threads. A step over weights that lie as the kernel reads them, as a share of torch's, two
#: threads: 3 layers of 128 .10 to .23; 6 of 384 with 1 sequence .46, 32 .51, 64 .57; 4 of 768 .82,
#: .70, .75.
_ROWS_OF_A_THREAD = 6

_KNOWN = ("use_cache", "position_ids", "attention_mask", "return_dict")


@dataclass(frozen=True)
class Copies:
    """Copies of the layers' weights as the kernel reads them.

    Args:
        weights: of each layer.
        autocast: they are rounded, for passes under autocast.
        bf16: they are in bf16, for products in it.
    """

    weights: list[tuple[Tensor, ...]]
    autocast: bool
    bf16: bool


@dataclass(frozen=True)
class Pass:
    """What one call of the kernel takes.

    Args:
        weights: of each layer.
        held: the cache's layers; none without a cache.
        used: positions they hold.
        starts: int64 [B], where each sequence starts, or None.
        rows: int64, of the last feed-forward, or None.
        positions: int64, of the tokens.
        bf16: products with weights are in bf16, as under autocast.
    """

    weights: list[tuple[Tensor, ...]]
    held: Sequence[RoomyLayer]
    used: int
    starts: Tensor | None
    rows: Tensor | None
    positions: Tensor
    bf16: bool


def _asks_little(trunk: GPT2Model, ids: Tensor, cache: Any, given: dict[str, Any]) -> bool:
    """Say whether a pass wants hidden states, and keys and values at most."""
    config = trunk.config
    return (
        not torch.compiler.is_compiling()
        and ids.ndim == 2
        and ids.device.type == "cpu"
        and ids.numel() > 0
        and given.get("use_cache") is (cache is not None)
        and given.get("return_dict") in (None, True)
        and all(_is_nothing(name, x) for name, x in given.items() if name not in _KNOWN)
        and config.return_dict
        and getattr(config, "is_causal", None) is not False
        and not (config.output_hidden_states or config.output_attentions)
        and not (trunk.gradient_checkpointing and trunk.training)
    )


def _is_nothing(name: str, value: Any) -> bool:
    """Say whether a setting asks for nothing: an output that is not wanted, say."""
    return value is None or (value is False and name != "is_causal")


def plan_pass(
    trunk: GPT2Model, copies: Copies | None, ids: Tensor, cache: Any, given: dict[str, Any]
) -> Pass | None:
    """Return what the kernels are called with, or None if they do not compute this.

    Args:
        trunk: the model.
        copies: of its weights, while they are held.
        ids: int64 [B, L].
        cache: keys and values, or None.
        given: whatever else it is called with, by name.
    """
    bf16 = _precision(copies)
    if bf16 is None or not _asks_little(trunk, ids, cache, given):
        return None
    weights = layer_weights(trunk, ids.shape[1])
    held = () if cache is None else getattr(cache, "layers", None) or ()
    if weights is None or (cache is not None and not _are_roomy(held, len(weights), ids.shape[1])):
        return None
    used = held[0].used if held else 0
    positions = given["position_ids"]
    if positions is None:
        positions = torch.arange(used, used + ids.shape[1], device=ids.device).unsqueeze(0)
    elif cache is None and not bool((positions.diff(dim=-1) == 1).all()):
        return None  # several sequences in a row
    rows = _rows(trunk)
    mask = given["attention_mask"]
    try:
        starts = None if mask is None else _starts(mask, used + ids.shape[1])
    except ValueError:
        return None
    if torch.is_grad_enabled():
        plain = cache is None and starts is None and copies is None
        taken = plain and _are_many(weights, ids, rows, bf16=bf16)
    else:
        taken = _is_worth_it(weights, ids, copies is not None)
        if bf16 and copies is None:  # as with a gradient, to the bits
            taken = taken and _are_many(weights, ids, rows, bf16=True)
    if not taken or (rows is not None and not bool((rows[1:] > rows[:-1]).all())):
        return None
    if copies is not None:
        weights = copies.weights
    return Pass(weights, held, used, starts, rows, positions, bf16)


def _precision(copies: Copies | None) -> bool | None:
    """Say whether the kernels are to multiply in bf16; None where torch is to compute."""
    if copies is None:
        return in_bf16()
    asked = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
    return copies.bf16 if asked == (torch.bfloat16 if copies.autocast else torch.float32) else None


def _rows(trunk: GPT2Model) -> Tensor | None:
    """Return which rows of the last feed-forward are read; None: all."""
    last = LastLayer.of(trunk.h[-1].mlp)
    return None if last is None else last.rows


def _is_worth_it(weights: Sequence[tuple[Tensor, ...]], ids: Tensor, laid_out: bool) -> bool:
    """Say whether one kernel for all layers is the faster, without a gradient."""
    numbers = sum(x.numel() for layer in weights for x in layer)
    rows, threads = ids.numel(), torch.get_num_threads()
    if rows > _MANY_ROWS and 2 * -(-len(ids) // threads) * threads > 3 * len(ids):
        return False  # sequences that leave many threads with nothing to do
    if numbers <= _SMALL:
        return True
    if laid_out:
        return threads <= 2 or rows >= _ROWS_OF_A_THREAD * threads
    return numbers <= _MOST and rows >= _MANY_ROWS


def _are_many(
    weights: Sequence[tuple[Tensor, ...]], ids: Tensor, rows: Tensor | None, *, bf16: bool
) -> bool:
    """Say whether the halves' kernels, which then compute, are the faster with so many rows."""
    fed = ids.numel() if rows is None else len(rows)
    ways = ((ids.numel(), weights[-1][2]), (fed, weights[-1][8]))
    return all(are_many(count, weight.numel(), bf16=bf16) for count, weight in ways)


def _are_roomy(held: Sequence[Any], layers: int, length: int) -> bool:
    """Say whether the kernel can write to and read from a cache of these layers."""
    if len(held) != layers or any(type(layer) is not RoomyLayer for layer in held):
        return False
    used, room = held[0].used, held[0].room
    return (
        all((layer.used, layer.room) == (used, room) for layer in held)
        and all(layer.holds(torch.float32) for layer in held)
        and used + length <= room
        and (used == 0 or length == 1)
    )


def _starts(mask: Tensor, positions: int) -> Tensor | None:
    """Return where each sequence starts under a mask [B, positions]; None for all at 0.

    Raises:
        ValueError: the mask hides something else than what is before a start.
    """
    if mask.ndim != 2 or mask.shape[1] != positions:
        raise ValueError("not of all positions")
    seen = mask != 0
    if bool(seen.all()):
        return None
    if not bool((seen[:, 1:] >= seen[:, :-1]).all() & seen[:, -1].all()):
        raise ValueError("not at the left")
    return positions - seen.sum(1)


def layer_weights(trunk: GPT2Model, length: int) -> list[tuple[Tensor, ...]] | None:
    """Return the layers' weights, or None if the kernel does not compute what they do."""
    blocks = list(trunk._modules["h"]._modules.values())
    if not blocks or not all(is_untouched(block, FusedBlock) for block in blocks):
        return None
    if not all(block.attends_plainly() and block.feeds_plainly() for block in blocks):
        return None
    first = blocks[0]._modules["attn"]
    wanted = (first.num_heads, first.scaling, True, {blocks[0]._modules["ln_1"].eps})
    if any(_settings(block) != wanted for block in blocks):
        return None
    if not is_short(length, first.head_dim, torch.float32):
        return None
    weights = [(*block.attention_weights, *block.feed_weights) for block in blocks]
    tables = [getattr(table, "weight", None) for table in (trunk.wte, trunk.wpe)]
    return weights if _are_taken(tables, weights) else None


def _settings(block: Any) -> tuple[Any, ...]:
    """Return what the kernel takes once for all layers: heads, scale, causality, eps of norms."""
    parts = block._modules
    attn = parts["attn"]
    return attn.num_heads, attn.scaling, attn.is_causal, {parts["ln_1"].eps, parts["ln_2"].eps}


def _are_taken(
    tables: Sequence[Tensor | None], weights: Sequence[tuple[Tensor | None, ...]]
) -> bool:
    for weight in (*tables, *(x for layer in weights for x in layer)):
        if weight is None or weight.dtype != torch.float32 or not weight.is_cpu:
            return False
        if weight.shape[-1] % 16:
            return False
    return True

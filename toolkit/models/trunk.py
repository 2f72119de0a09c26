"""All layers of a GPT-2 in one go on a CPU.

Where no gradient is wanted, in references, scores and held-out losses, a thread takes its sequences
through all layers of a small model (`rlhf_kernels.decoder_layers`); in sampling those of every
model, since its weights are laid out once for many tokens. For a gradient the halves of the layers
follow each other with nothing in between. What is taken neither way goes on as before, layer by
layer (layers.py).

Dims: B sequences, L positions, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.models.gpt2.modeling_gpt2 import GPT2Model

import rlhf_kernels as rk
from toolkit.models.attention import is_short
from toolkit.models.cache import RoomyLayer
from toolkit.models.last_layer import LastLayer
from toolkit.models.layers import FusedBlock, are_many, is_untouched

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

_KNOWN = ("use_cache", "position_ids", "return_dict")


@dataclass(frozen=True)
class _Pass:
    """What one call of the kernel takes.

    Args:
        weights: of each layer.
        held: the cache's layers; none without a cache.
        used: positions they hold.
        starts: int64 [B], where each sequence starts, or None.
        rows: int64, of the last feed-forward, or None.
    """

    weights: list[tuple[Tensor, ...]]
    held: Sequence[RoomyLayer]
    used: int
    starts: Tensor | None
    rows: Tensor | None


class _AsGPT2(type):
    """transformers keeps by a class's text which outputs its models can record."""

    def __str__(cls) -> str:
        return str(GPT2Model)


class FusedTrunk(GPT2Model, metaclass=_AsGPT2):  # type: ignore[misc]
    """A trunk that reads by the kernels what they take; weights and names are GPT2Model's."""

    laid_out: list[tuple[Tensor, ...]] | None = None  # copies of the weights, see `lay_out`
    is_rounded = False  # to bf16

    def forward(
        self,
        input_ids: Tensor | None = None,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        **given: Any,
    ) -> Any:
        """Do as GPT2Model.forward does."""
        plan = None
        if input_ids is not None and _asks_little(self, input_ids, past_key_values, given):
            plan = _plan(self, input_ids, past_key_values, attention_mask)
        if input_ids is None or plan is None:
            return super().forward(input_ids, past_key_values, attention_mask, **given)
        positions = given.get("position_ids")
        if positions is None:
            positions = torch.arange(plan.used, plan.used + input_ids.shape[1]).unsqueeze(0)
        hidden = self.drop(self.wte(input_ids) + self.wpe(positions))
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.ln_f(_read(self, hidden, plan)), past_key_values=past_key_values
        )


def fuse_trunk(model: PreTrainedModel) -> None:
    """Have a GPT-2 read by the kernel; weights, names and config stay as they are."""
    if rk.current_isa() == "baseline":
        return
    for module in model.modules():
        if type(module) is GPT2Model:
            module.__class__ = FusedTrunk


@contextmanager
def lay_out(model: PreTrainedModel, *, rounded: bool = False) -> Iterator[None]:
    """Hold copies of a model's weights as the kernel reads them; the weights must not change.

    Args:
        model: any; nothing is held of what is no GPT-2.
        rounded: to bf16, as autocast rounds them. The kernel then computes under autocast too.
    """
    trunks = [module for module in model.modules() if isinstance(module, FusedTrunk)]
    for trunk in trunks:
        weights = _weights(trunk, 1)
        if weights is None:
            continue
        trunk.laid_out = rk.lay_out_layers(_round(weights) if rounded else weights)
        trunk.is_rounded = rounded
    try:
        yield
    finally:
        for trunk in trunks:
            trunk.laid_out = None


def _round(weights: list[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
    return [
        tuple(x.detach().bfloat16().float() if x.ndim == 2 else x for x in layer)
        for layer in weights
    ]


def _read(trunk: FusedTrunk, hidden: Tensor, plan: _Pass) -> Tensor:
    """Take hidden states [B, L, D] through all layers."""
    attn, eps = trunk.h[0].attn, trunk.h[0].ln_1.eps
    heads, scale = attn.num_heads, attn.scaling
    out = rk.decoder_layers(
        hidden,
        plan.weights,
        heads=heads,
        scale=scale,
        eps=eps,
        cache=[layer.take(hidden, heads) for layer in plan.held],
        used=plan.used,
        starts=plan.starts,
        rows=plan.rows,
    )
    for layer in plan.held:
        layer.advance(hidden.shape[1])
    return out


def _asks_little(trunk: FusedTrunk, ids: Tensor, cache: Any, given: dict[str, Any]) -> bool:
    """Say whether a pass wants hidden states, and keys and values at most."""
    config = trunk.config
    return (
        (trunk.laid_out is not None and trunk.is_rounded) == torch.is_autocast_enabled("cpu")
        and ids.ndim == 2
        and ids.device.type == "cpu"
        and ids.numel() > 0
        and given.get("use_cache") is (cache is not None)
        and given.get("return_dict") in (None, True)
        and all(x is None or x is False for name, x in given.items() if name not in _KNOWN)
        and config.return_dict
        and not (config.output_hidden_states or config.output_attentions)
        and not (trunk.gradient_checkpointing and trunk.training)
    )


def _plan(trunk: FusedTrunk, ids: Tensor, cache: Any, mask: Tensor | None) -> _Pass | None:
    """Return what the kernels are called with, or None if they do not compute this."""
    held, length = [] if cache is None else cache.layers, ids.shape[1]
    used = held[0].used if held and type(held[0]) is RoomyLayer else 0
    weights = _weights(trunk, length)
    if weights is None or not _are_roomy(held, len(weights), length):
        return None
    last = LastLayer.of(trunk.h[-1].mlp)
    rows = None if last is None else last.rows
    if rows is not None and not bool((rows[1:] > rows[:-1]).all()):
        return None
    try:
        starts = None if mask is None else _starts(mask, used + length)
    except ValueError:
        return None
    if torch.is_grad_enabled():
        plain = not held and starts is None and trunk.laid_out is None
        taken = plain and _are_many(weights, ids, rows)
    else:
        taken = _is_worth_it(weights, ids, trunk.laid_out is not None)
    return _Pass(trunk.laid_out or weights, held, used, starts, rows) if taken else None


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


def _are_many(weights: Sequence[tuple[Tensor, ...]], ids: Tensor, rows: Tensor | None) -> bool:
    """Say whether the halves' kernels, which then compute, are the faster with so many rows."""
    fed = ids.numel() if rows is None else len(rows)
    return are_many(ids.numel(), weights[-1][2].numel()) and are_many(fed, weights[-1][8].numel())


def _are_roomy(held: Sequence[Any], layers: int, length: int) -> bool:
    """Say whether the kernel can write to and read from a cache; none is well too."""
    if not held:
        return True
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


def _weights(trunk: FusedTrunk, length: int) -> list[tuple[Tensor, ...]] | None:
    """Return the layers' weights, or None if the kernel does not compute what they do."""
    blocks = list(trunk._modules["h"]._modules.values())
    if not blocks or not all(is_untouched(block, FusedBlock) for block in blocks):
        return None
    first = blocks[0]._modules["attn"]
    if not is_short(length, first.head_dim, torch.float32):
        return None
    wanted = (first.num_heads, first.scaling, True, {blocks[0]._modules["ln_1"].eps})
    for block in blocks:
        if not (block.attends_plainly() and block.feeds_plainly() and _settings(block) == wanted):
            return None
    weights = [(*block.attention_weights, *block.feed_weights) for block in blocks]
    return weights if _are_taken([trunk.wte.weight, trunk.wpe.weight], weights) else None


def _settings(block: Any) -> tuple[Any, ...]:
    """Return what the kernel takes once for all layers: heads, scale, causality, eps of norms."""
    parts = block._modules
    attn = parts["attn"]
    return attn.num_heads, attn.scaling, attn.is_causal, {parts["ln_1"].eps, parts["ln_2"].eps}


def _are_taken(tables: Sequence[Tensor], weights: Sequence[tuple[Tensor | None, ...]]) -> bool:
    for weight in (*tables, *(x for layer in weights for x in layer)):
        if weight is None or weight.dtype != torch.float32 or not weight.is_cpu:
            return False
        if weight.shape[-1] % 16:
            return False
    return True

"""GPT-2's layers by kernels against the same written out in torch: time of passes and of tokens.

    python -m tests.measure_layers [--threads 2] [--what both pass token] [--bf16]

both: hidden states of a model's trunk and their gradients. pass: hidden states alone. token: those
of one more position of each sequence, from a cache; the layout of the weights, which an answer's
tokens share, is not in it. Both ways in turn in one process, the median of the ratios of
neighbouring ones. --bf16: all of it under autocast.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from statistics import median

import torch
from transformers import GPT2Config, GPT2Model
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from toolkit.models.activation import fuse_activations
from toolkit.models.cache import make_cache
from toolkit.models.layers import FusedBlock
from toolkit.models.trunk import FusedTrunk, lay_out
from toolkit.training.device import set_up_memory

#: Layers, width, sequences, tokens of each.
CASES = [(3, 64, 64, 11), (3, 128, 64, 11), (3, 128, 128, 14), (4, 256, 32, 64), (6, 384, 16, 127)]
ROUNDS = 40


def make(layers: int, width: int) -> GPT2Model:
    """Make a model with random weights, as a stage has it."""
    torch.manual_seed(0)
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    sizes = {"n_layer": layers, "n_embd": width, "n_head": width // 32, "n_positions": 128}
    model = GPT2Model(GPT2Config(vocab_size=32, **sizes, **off)).eval()
    fuse_activations(model)
    return model


def seconds(model: GPT2Model, ids: torch.Tensor, what: str, fused: bool) -> float:
    """Time one of them by kernels or written out."""
    model.__class__ = FusedTrunk if fused else GPT2Model
    for layer in model.h:
        layer.__class__ = FusedBlock if fused else GPT2Block
    if what == "both":
        start = time.perf_counter()
        model(ids, use_cache=False)[0].square().sum().backward()
        taken = time.perf_counter() - start
        model.zero_grad()
        return taken
    with torch.no_grad():
        if what == "pass":
            start = time.perf_counter()
            model(ids, use_cache=False)
            return time.perf_counter() - start
        with lay_out(model, bf16=torch.is_autocast_enabled("cpu")) if fused else nullcontext():
            cache = make_cache(model, ids.shape[1])
            model(ids[:, :-1], past_key_values=cache, use_cache=True)
            start = time.perf_counter()
            model(ids[:, -1:], past_key_values=cache, use_cache=True)
            return time.perf_counter() - start


def once(model: GPT2Model, ids: torch.Tensor, what: str, fused: bool, bf16: bool) -> float:
    """Time it in that precision; autocast keeps casts of weights no longer than this."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return seconds(model, ids, what, fused)


def main() -> None:
    """Print a row for each case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    kinds = ["both", "pass", "token"]
    parser.add_argument("--what", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--bf16", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    set_up_memory()
    for layers, width, count, length in CASES:
        model, ids = make(layers, width), torch.randint(32, (count, length))
        for what in given.what:
            times = [tuple(once(model, ids, what, fused, given.bf16) for fused in (True, False))
                     for _ in range(ROUNDS + 3)][3:]  # fmt: skip
            ours, plain = (median(column) * 1e3 for column in zip(*times, strict=True))
            ratio = median(one / other for one, other in times)
            print(f"{layers} layers of {width}, {count} x {length} tokens, {what}: {ours:.2f} ms "
                  f"by kernels, {plain:.2f} written out, {ratio:.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

"""GPT-2's layers by kernels against the same written out in torch: time of both passes.

    python -m tests.measure_layers [--threads 2]

Hidden states of a model's trunk and their gradients; both ways in turn in one process, the median
of the ratios of neighbouring passes.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from transformers import GPT2Config, GPT2Model
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from toolkit.models.activation import fuse_activations
from toolkit.models.layers import FusedBlock
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


def seconds(model: GPT2Model, ids: torch.Tensor, block: type[GPT2Block]) -> float:
    """Time both passes with layers of that class."""
    for layer in model.h:
        layer.__class__ = block
    start = time.perf_counter()
    model(ids, use_cache=False)[0].square().sum().backward()
    taken = time.perf_counter() - start
    model.zero_grad()
    return taken


def main() -> None:
    """Print a row for each case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    set_up_memory()
    for layers, width, count, length in CASES:
        model, ids = make(layers, width), torch.randint(32, (count, length))
        times = [(seconds(model, ids, FusedBlock), seconds(model, ids, GPT2Block))
                 for _ in range(ROUNDS + 3)][3:]  # fmt: skip
        ours, plain = (median(column) * 1e3 for column in zip(*times, strict=True))
        ratio = median(one / other for one, other in times)
        print(f"{layers} layers of {width}, {count} x {length} tokens: {ours:.1f} ms by kernels, "
              f"{plain:.1f} written out, {ratio:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()

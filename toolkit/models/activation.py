"""The tanh form of gelu as one kernel: GPT-2's activation, under whichever name a config has it.

transformers writes `gelu_new` out, eight kernels forward with six tensors kept for the backward
pass; torch's own `gelu` is one, and spends most of it on tanh. docs/PERFORMANCE.md has the times.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.activations import (
    AccurateGELUActivation,
    FastGELUActivation,
    GELUTanh,
    NewGELUActivation,
)

import rlhf_kernels as rk

_SAME_FORMULA = (AccurateGELUActivation, FastGELUActivation, GELUTanh, NewGELUActivation)
_BLOOMS = "transformers.models.bloom.modeling_bloom", "BloomGelu"  # a tenth of a second to import


class TanhGelu(torch.nn.Module):
    """`rlhf_kernels.gelu_tanh` as a module without parameters."""

    def forward(self, x: Tensor) -> Tensor:
        """Return gelu of x [...] in its dtype."""
        return rk.gelu_tanh(x)


def fuse_activations(model: PreTrainedModel) -> None:
    """Replace every module that computes gelu's tanh form; weights and config stay as they are."""
    for module in model.modules():
        for name, child in module.named_children():
            kind = type(child)
            if isinstance(child, _SAME_FORMULA) or (kind.__module__, kind.__name__) == _BLOOMS:
                setattr(module, name, TanhGelu())

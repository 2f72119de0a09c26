"""Exponential moving average of the weights, per optimizer step (C.4: 0.992)."""

from __future__ import annotations

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def make_ema(model: torch.nn.Module, decay: float) -> AveragedModel:
    """Start an average at the model's present weights.

    Ema = decay * ema + (1 - decay) * weights at each update.
    """
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    average.n_averaged.fill_(1)  # at 0 the first update would copy, and the start would not count
    return average

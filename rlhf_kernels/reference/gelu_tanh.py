"""gelu_tanh in float64."""

import math

import torch
from torch import Tensor


def gelu_tanh(x: Tensor) -> Tensor:
    """Compute 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    x = x.double()
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

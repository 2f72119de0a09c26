"""token_kl in float64."""

import torch
from torch import Tensor

MAX_EXPONENT = 80.0


def token_kl(logprobs: Tensor, ref_logprobs: Tensor, *, estimator: str = "k1") -> Tensor:
    """Compute k1 = d, k2 = d^2 / 2 or k3 = expm1(-d) + d with d = logprobs - ref_logprobs."""
    d = logprobs.double() - ref_logprobs.double()
    if estimator == "k1":
        return d
    if estimator == "k2":
        return 0.5 * d.square()
    return torch.expm1((-d).clamp(max=MAX_EXPONENT)) + d

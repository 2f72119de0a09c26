"""linear_logprobs in float64."""

import torch
from torch import Tensor

from rlhf_kernels.reference.gather_logprobs import gather_logprobs


def make_logits(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """Return softcap(logit_scale (hidden weight^T + bias)), softcap(x) = c tanh(x / c)."""
    logits = hidden.double() @ weight.double().T
    if bias is not None:
        logits = logits + bias.double()
    logits = logits * logit_scale
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    mask: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Form the logits, then compute (logprob, entropy, logsumexp) of each row."""
    logits = make_logits(hidden, weight, bias, logit_scale=logit_scale, softcap=softcap)
    return gather_logprobs(logits, targets, temperature=temperature, mask=mask)

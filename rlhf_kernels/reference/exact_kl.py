"""exact_kl in float64."""

import torch
from torch import Tensor

from rlhf_kernels.reference.gather_logprobs import scaled


def exact_kl(
    logits: Tensor,
    ref_logits: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Compute sum_v p (log p - log q) of each row; an entry with p = 0 contributes nothing."""
    logp = scaled(logits, temperature).log_softmax(dim=-1)
    logq = scaled(ref_logits, temperature).log_softmax(dim=-1)
    empty = logp == -torch.inf
    terms = logp.exp() * (logp.masked_fill(empty, 0.0) - logq.masked_fill(empty, 0.0))
    kl = terms.sum(dim=-1)
    return kl if mask is None else torch.where(mask, kl, 0.0)

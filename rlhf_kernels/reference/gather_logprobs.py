"""gather_logprobs in float64."""

import torch
from torch import Tensor


def scaled(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Return logits / temperature in float64, for one temperature or one per row."""
    if isinstance(temperature, Tensor):
        temperature = temperature.double()[:, None]
    return logits.double() / temperature


def gather_logprobs(
    logits: Tensor,
    targets: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute (logprob of the target, entropy, logsumexp) of each row; 0 where mask is False."""
    z = scaled(logits, temperature)
    logp = z.log_softmax(dim=-1)
    safe = targets.long().clamp(0, logits.shape[1] - 1)
    logprobs = logp.gather(1, safe[:, None])[:, 0]
    p = logp.exp()
    entropy = -torch.where(p > 0, p * logp.masked_fill(p == 0, 0.0), 0.0).sum(dim=-1)
    lse = z.logsumexp(dim=-1)
    if mask is None:
        return logprobs, entropy, lse
    return tuple(torch.where(mask, t, 0.0) for t in (logprobs, entropy, lse))  # type: ignore[return-value]

"""linear_cross_entropy in float64."""

from torch import Tensor

from rlhf_kernels.reference.cross_entropy import cross_entropy
from rlhf_kernels.reference.linear_logprobs import make_logits


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    denominator: float | None = None,
    temperature: float | Tensor = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """Form the logits, then compute sum_mask -logprob / denominator."""
    logits = make_logits(hidden, weight, bias, logit_scale=logit_scale, softcap=softcap)
    return cross_entropy(
        logits, targets, mask=mask, denominator=denominator, temperature=temperature
    )

"""linear_ppo_loss in float64."""

from typing import Any

from torch import Tensor

from rlhf_kernels.reference.linear_logprobs import make_logits
from rlhf_kernels.reference.ppo_loss_from_logits import ppo_loss_from_logits


def linear_ppo_loss(
    hidden: Tensor,
    weight: Tensor,
    *rows: Tensor,
    bias: Tensor | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    ref_hidden: Tensor | None = None,
    ref_weight: Tensor | None = None,
    ref_bias: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Form the logits, and the reference's, then compute the objective term by term.

    `rows` are targets, old_logprobs, advantages and mask.
    """
    logits = make_logits(hidden, weight, bias, logit_scale=logit_scale, softcap=softcap)
    if ref_hidden is not None and ref_weight is not None:
        options["ref_logits"] = make_logits(
            ref_hidden, ref_weight, ref_bias, logit_scale=logit_scale, softcap=softcap
        )
    return ppo_loss_from_logits(logits, *rows, **options)

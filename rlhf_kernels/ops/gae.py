"""gae: generalised advantage estimation over masked rows."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_kernels import _registry as registry

registry.declare("gae", "native")


def _outputs(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float, whiten: bool
) -> tuple[Tensor, Tensor]:
    return (
        registry.new_result(rewards, *rewards.shape),
        registry.new_result(rewards, *rewards.shape),
    )


def _workspace_items(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float, whiten: bool
) -> int:
    return rewards.numel() if whiten else 0


_forward = registry.define_op(
    "gae(Tensor rewards, Tensor values, Tensor mask, float gamma, float lam, bool whiten)"
    " -> (Tensor, Tensor)",
    _outputs,
    _workspace_items,
)


@torch.no_grad()
def gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    gamma: float,
    lam: float,
    whiten: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute advantages and returns, one backward pass over each row.

    delta_t = r_t + gamma V_next - V_t;  A_t = delta_t + gamma lam A_next;  returns = A + V.
    "next" is the next unmasked position of the row: holes in the mask are skipped. After the last
    unmasked position value and advantage are 0.

    Args:
        rewards: [B, T]; float32, bfloat16, float16 or float64 (mixed inputs are converted to one
            result dtype).
        values: [B, T], predicted before each token.
        mask: bool [B, T]; True counts. Masked entries are never read and may hold NaN.
        gamma: discount, 0 to 1 (InstructGPT: 1, no discount).
        lam: the lambda of GAE, 0 to 1 (0.95 in OpenAI's code line; not printed in InstructGPT).
        whiten: whiten the advantages over all unmasked entries of the batch, mean included. The
            returns are formed before.

    Returns:
        `(advantages, returns)`, [B, T], float32 (float64 if any input is), 0 where masked; no
        gradient.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or `gamma` or `lam` is outside 0 to 1.
            float64 is for the CPU.

    Source: Schulman et al. 2015 (arXiv:1506.02438), equation 16.
    """
    out: tuple[Tensor, Tensor] = _forward(
        *registry.promote(rewards, values), mask.contiguous(), gamma, lam, whiten
    )
    return out

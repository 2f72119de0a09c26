"""ranking_loss: the reward model's loss over all comparisons of a prompt's answers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlhf_kernels import _registry as registry

registry.declare("ranking_loss", "native")

STATS = ("accuracy", "margin", "pairs", "tied", "prompts", "skipped")


def _outputs(scores: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return registry.loss_outputs(scores, len(STATS))


_forward = registry.define_op(
    "ranking_loss(Tensor scores, Tensor ranks, Tensor group_offsets, str ties,"
    " Tensor? denominator) -> (Tensor, Tensor, Tensor, Tensor)",
    _outputs,
    lambda scores, ranks, group_offsets, *_: group_offsets.numel() - 1,
)
registry.define_gradient("ranking_loss", registry.save_loss_gradient, registry.scale_gradient)


def _index(tensor: Tensor) -> Tensor:
    """Return int32 as int64; other dtypes pass unchanged, so that the kernel refuses them."""
    return (tensor.to(torch.int64) if tensor.dtype == torch.int32 else tensor).contiguous()


def ranking_loss(
    scores: Tensor,
    ranks: Tensor,
    group_offsets: Tensor,
    *,
    ties: str = "drop",
    denominator: float | Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the K-wise Bradley-Terry loss: mean over a prompt's pairs, then over prompts.

    A pair costs -log sigmoid(s_better - s_worse). Prompts may have different numbers of answers;
    one without any pair counts nowhere. Stable for differences of any size.

    Args:
        scores: [N], the answers' scores, prompt after prompt; float32, bfloat16, float16, float64.
        ranks: [N], int32 or int64, 1 is the best; equal ranks are a tie.
        group_offsets: [G + 1], int32 or int64: prompt g has the answers group_offsets[g] to
            group_offsets[g + 1] - 1.
        ties: "drop" leaves tied pairs out (InstructGPT); "half" counts each half either way.
        denominator: what the sum over prompts is divided by; default: the number of prompts with a
            pair. With the batch's count the losses of its micro-batches add up. A number, or a 0-d
            tensor on the device of `scores`; one from elsewhere is copied there, which waits and
            cannot be captured in a CUDA graph.

    Returns:
        `(loss, stats)`: a 0-d tensor, float32 (float64 for float64), differentiable in `scores`;
        and 0-d tensors without gradient: `accuracy`, the share of pairs of different rank that the
        scores order rightly, equal scores count half; `margin`, the mean s_better - s_worse over
        them; `pairs`, their number (so weigh `accuracy` and `margin` by `pairs` to join
        micro-batches); `tied`, the number of tied pairs; `prompts`, with a pair; `skipped`,
        without.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, a rank is below 1, the offsets do not
            rise from 0 to N, `ties` is unknown, or `denominator` is not positive though a prompt
            counts. On CUDA nothing waits for ranks, offsets and denominator: wrong ones make loss,
            statistics and gradient NaN. float64 is for the CPU.

    Source: InstructGPT section 3.5, equation 1, and C.2.
    """
    loss, stats, _, _ = _forward(
        *registry.promote(scores),
        _index(ranks),
        _index(group_offsets),
        ties,
        registry.optional_denominator(denominator, scores),
    )
    return loss, dict(zip(STATS, stats.unbind(), strict=True))

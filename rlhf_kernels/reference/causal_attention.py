"""causal_attention in float64."""

import torch
from torch import Tensor


def causal_attention(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float | None = None
) -> Tensor:
    """Compute softmax_{j <= i}(scale q_i . k_j) v_j, [B, L, H, E], position by position."""
    groups = query.shape[1] // key.shape[1]
    q = query.double() * (query.shape[-1] ** -0.5 if scale is None else scale)
    k, v = (x.double().repeat_interleave(groups, dim=1) for x in (key, value))
    rows = []
    for i in range(q.shape[2]):
        scores = torch.einsum("bhd,bhjd->bhj", q[:, :, i], k[:, :, : i + 1])
        rows.append(torch.einsum("bhj,bhje->bhe", scores.softmax(-1), v[:, :, : i + 1]))
    return torch.stack(rows, dim=1)

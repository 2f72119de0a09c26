"""whiten: masked whitening over a whole batch."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_kernels import _registry as registry

registry.declare("whiten", "native")


def _outputs(x: Tensor, mask: Tensor, shift_mean: bool) -> Tensor:
    return registry.new_result(x, *x.shape)


_forward = registry.define_op(
    "whiten(Tensor x, Tensor mask, bool shift_mean) -> Tensor", _outputs, lambda x, *_: x.numel()
)


@torch.no_grad()
def whiten(x: Tensor, mask: Tensor, *, shift_mean: bool = True) -> Tensor:
    """Scale the unmasked entries to variance 1 and, with `shift_mean`, move their mean to 0.

    y = (x - mean) / sqrt(var + 1e-8), plus the mean when it is not shifted; mean and biased
    variance over all unmasked entries.

    Args:
        x: any shape; float32, bfloat16, float16 or float64.
        mask: bool, same shape; True counts. Masked entries are never read and may hold NaN.
        shift_mean: True for advantages, False for rewards, whose sign carries meaning.

    Returns:
        The shape of `x`, float32 (float64 for float64), 0 where masked; no gradient.

    Raises:
        ValueError: shapes or devices do not fit, or `mask` is not bool. float64 is for the CPU.

    Source: Ziegler et al. 2019, https://github.com/openai/lm-human-preferences, `whiten`.
    """
    out: Tensor = _forward(*registry.promote(x), mask.contiguous(), shift_mean)
    return out

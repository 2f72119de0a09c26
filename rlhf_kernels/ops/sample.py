"""sample: one token of every row, with its log-probs and the row's entropy."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlhf_kernels import _registry as registry
from rlhf_kernels.ops import _rows

registry.declare("sample", "native")


class Samples(NamedTuple):
    """What `sample` returns: four tensors [N]; tokens int64, the others in nats."""

    tokens: Tensor
    logprobs: Tensor
    truncated_logprobs: Tensor
    entropy: Tensor


def _outputs(logits: Tensor, *_: Any) -> tuple[Tensor, ...]:
    n = logits.shape[0]
    tokens = torch.empty(n, dtype=torch.int64, device=logits.device)
    return tokens, *(registry.new_result(logits, n) for _ in range(3))


_forward = registry.define_op(
    "sample(Tensor logits, Tensor row_ids, Tensor positions, Tensor? temperatures,"
    " float temperature, int seed, int top_k, float top_p) -> (Tensor, Tensor, Tensor, Tensor)",
    _outputs,
)


@torch.no_grad()
def sample(
    logits: Tensor,
    seed: int,
    row_ids: Tensor,
    positions: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Samples:
    """Draw one token of every row, and compute its log-probs and the row's entropy.

    With z = logits / temperature and p = softmax(z) the token is the first j with
    p_0 + ... + p_j > u, where u in [0, 1) is Philox4x32-10 of the seed, the row's id and its
    position: it depends neither on the batch nor on earlier draws. A token with p = 0 is never
    drawn.

    top_k keeps the entries whose logit is at least the k-th largest. top_p then keeps the smallest
    set of the most likely of these whose renormalised mass is at least top_p. Entries equal to the
    last one kept are kept too. The draw is from the kept entries, renormalised.

    Args:
        logits: [N, V] float32, bfloat16, float16 or float64. A row's V values must be consecutive
            in memory; the distance between rows is free.
        seed: the key of the generator, in [-2^63, 2^64); numbers equal modulo 2^64 are one key.
        row_ids: int64 [N], which sequence the row belongs to.
        positions: int64 [N], which of the sequence's tokens is drawn.
        temperature: positive (at least 1e-4), one number or a float32/float64 tensor [N].
        top_k: 0 keeps all entries.
        top_p: in (0, 1]; 1 keeps all entries.

    Returns:
        Samples(tokens, logprobs, truncated_logprobs, entropy), each [N]; without gradient.
        tokens are int64. logprobs and entropy are of p, whatever was kept: bit for bit what
        `gather_logprobs` gives for the tokens at this temperature. truncated_logprobs are of the
        distribution that was drawn from, and have the bits of logprobs where all entries are kept.
        A row that holds NaN or +inf, or nothing but -inf, gives token -1 and NaN.

    Raises:
        ValueError: a shape, dtype or layout is wrong, a temperature is too small, or seed, top_k
            or top_p is out of range.
    """
    per_row, common = _rows.split_temperature(temperature)
    options = (per_row, common, _to_int64(seed), top_k, float(top_p))
    return Samples(*_forward(logits, row_ids.contiguous(), positions.contiguous(), *options))


def _to_int64(seed: int) -> int:
    """Return the seed in the range of the schema's integers, the same modulo 2^64."""
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"sample: argument 'seed' must lie in [-2^63, 2^64), got {seed}")
    return seed - 2**64 if seed >= 2**63 else seed

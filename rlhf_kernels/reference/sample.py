"""sample in float64, one row at a time."""

import torch
from torch import Tensor

from rlhf_kernels.reference.gather_logprobs import scaled

WORD = 0xFFFFFFFF


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the four 32-bit words of Philox4x32-10 (Salmon et al., SC 2011)."""
    c, k = counter, key
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = (b >> 32 ^ c[1] ^ k[0], b & WORD, a >> 32 ^ c[3] ^ k[1], a & WORD)
        k = ((k[0] + 0x9E3779B9) & WORD, (k[1] + 0xBB67AE85) & WORD)
    return c


def uniforms(seed: int, row_ids: Tensor, positions: Tensor) -> Tensor:
    """Return the draw of each row, float64 [N] in [0, 1)."""
    draws = []
    for row, position in zip(row_ids.tolist(), positions.tolist(), strict=True):
        counter = (row & WORD, row >> 32 & WORD, position & WORD, position >> 32 & WORD)
        words = philox(counter, (seed & WORD, seed >> 32 & WORD))
        draws.append((words[0] << 32 | words[1]) >> 11)
    return torch.tensor(draws, dtype=torch.float64) * 2.0**-53


def keep(logits: Tensor, p: Tensor, top_k: int, top_p: float) -> Tensor:
    """Return which entries of one row are kept, bool [V]."""
    kept = torch.ones_like(p, dtype=torch.bool)
    if 0 < top_k < len(p):
        kept = logits >= logits.topk(top_k).values[-1]
    if top_p < 1:
        mass = torch.where(kept, p, 0.0)
        order = logits.double().argsort(descending=True)
        enough = mass[order].cumsum(0) >= top_p * mass.sum()
        kept &= logits >= logits[order[enough.long().argmax()]]
    return kept


def kept_probs(
    logits: Tensor, *, temperature: float | Tensor = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Tensor:
    """Return the probabilities that are drawn from, float64 [N, V]: 0 where not kept."""
    p = scaled(logits, temperature).softmax(-1)
    rows = [torch.where(keep(x, q, top_k, top_p), q, 0.0) for x, q in zip(logits, p, strict=True)]
    kept = torch.stack(rows) if rows else p
    return kept / kept.sum(-1, keepdim=True)


def sample(
    logits: Tensor,
    seed: int,
    row_ids: Tensor,
    positions: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute (token, its log-prob, its log-prob among the kept, entropy) of each proper row."""
    kept = kept_probs(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    u = uniforms(seed, row_ids, positions).to(logits.device)
    cdf = kept.cumsum(-1)
    above = (cdf > u[:, None] * cdf[:, -1:]) & (kept > 0)
    tokens = above.long().argmax(-1)
    logp = scaled(logits, temperature).log_softmax(-1)
    p = logp.exp()
    entropy = -torch.where(p > 0, p * logp.masked_fill(p == 0, 0.0), 0.0).sum(-1)
    taken = tokens[:, None]
    return tokens, logp.gather(1, taken)[:, 0], kept.gather(1, taken)[:, 0].log(), entropy

"""sample: token, log-prob and entropy, against softmax, multinomial and log_softmax.

The draws differ between the providers, so that only the entropy is compared with float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import rlhf_kernels as rk
from rlhf_kernels.bench import field, inputs
from rlhf_kernels.bench.cases import OURS, Case, Provider, Results, Settings, make_again
from rlhf_kernels.bench.providers import Function, make_compiled
from rlhf_kernels.reference.gather_logprobs import gather_logprobs as reference

SEED = 1
ROWS = 256
OPTIONS: dict[str, dict[str, Any]] = {
    "forward": {},
    "forward top_k=50": {"top_k": 50},
    "forward top_p=0.9": {"top_p": 0.9},
}


def entropy_and_logprob(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Write what follows the draw as PPO code does."""
    logp = logits.log_softmax(dim=-1)
    return -(logp.exp() * logp).sum(-1), logp.gather(-1, tokens[:, None])[:, 0]


def draw(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Write a draw from the softmax."""
    tokens = torch.multinomial(logits.float().softmax(-1), 1)[:, 0]
    return entropy_and_logprob(logits.float(), tokens)


def draw_top_k(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Write a draw from the 50 largest."""
    values, places = logits.float().topk(50, dim=-1)
    choice = torch.multinomial(values.softmax(-1), 1)
    return entropy_and_logprob(logits.float(), places.gather(-1, choice)[:, 0])


def draw_top_p(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Write a draw from the sorted probabilities up to a mass of 0.9."""
    p, places = logits.float().softmax(-1).sort(dim=-1, descending=True)
    kept = torch.where(p.cumsum(-1) - p < 0.9, p, 0.0)
    choice = torch.multinomial(kept, 1)
    return entropy_and_logprob(logits.float(), places.gather(-1, choice)[:, 0])


EAGER = dict(zip(OPTIONS, (draw, draw_top_k, draw_top_p), strict=True))


def make_cases(settings: Settings) -> Iterator[Case]:
    """Yield a draw from all entries, then each truncation."""
    dtypes, device = settings.pick_logits_dtypes(), settings.device
    first = settings.pick_shape((ROWS, 50257), quick=(16, 50257))
    vocabularies = [vocabulary for _, vocabulary in settings.pick_logits_shapes()]
    for vocabulary in vocabularies:
        for dtype in dtypes:
            yield make_again(make_case, "forward", (first[0], vocabulary), dtype, device)
    for mode in list(OPTIONS)[1:]:
        yield make_again(make_case, mode, first, dtypes[0], device)


def make_case(mode: str, shape: tuple[int, int], dtype: torch.dtype, device: str = "cpu") -> Case:
    """Build one case: one read of the logits; the log-prob pass alone stands beside it."""
    logits = inputs.make_logits(*shape, dtype, device=device)
    ids = torch.arange(shape[0], device=device)
    targets = inputs.make_targets(logits)

    def ours() -> Results:
        return {"entropy": rk.sample(logits, SEED, ids, ids, **OPTIONS[mode]).entropy}

    def name(results: tuple[Tensor, Tensor]) -> Results:
        return {"entropy": results[0]}

    return Case(
        op="sample",
        mode=mode,
        shape=shape,
        dtype=dtype,
        N=shape[0],
        V=shape[1],
        bytes_read=dtype.itemsize * logits.numel(),
        bytes_written=20 * shape[0],
        truth=lambda: {"entropy": reference(logits, targets)[1]},
        providers=[
            Provider(name=OURS, run=ours),
            Provider(
                name="gather_logprobs, no draw",
                run=lambda: {"entropy": rk.gather_logprobs(logits, targets).entropy},
            ),
            Provider(name="eager", run=lambda: name(EAGER[mode](logits))),
            make_compiled("torch.compile", EAGER[mode], lambda f: name(f(logits)), device),
            *make_foreigners(mode, logits, device),
        ],
    )


def make_foreigners(mode: str, logits: Tensor, device: str) -> list[Provider]:
    """Return FlashInfer's draw from all entries, with the log-prob that it leaves to others."""
    if mode != "forward":
        return []

    def call(function: Function) -> Results:
        return {"logprobs": function(logits)[1]}

    return [
        field.make_foreign(
            field.FLASHINFER, "sampling", field.load_flashinfer_sampling, call, device
        )
    ]

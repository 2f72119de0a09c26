"""gather_logprobs: log-prob, entropy and logsumexp, against log_softmax and what follows it.

The baselines with "plain" in their name compute the log-prob alone, which is less than ours does.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

import rlhf_kernels as rk
from rlhf_kernels.bench import field, inputs
from rlhf_kernels.bench.cases import OURS, Case, Provider, Results, Settings, make_again
from rlhf_kernels.bench.providers import (
    TRUE_ROWS,
    Function,
    add_up_truth,
    differentiate,
    make_compiled,
)
from rlhf_kernels.reference.gather_logprobs import gather_logprobs as reference

NAMES = ("logprobs", "entropy", "logsumexp")


def eager(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Write log-prob and entropy as PPO code does, in the dtype of the logits."""
    logp = functional.log_softmax(logits, dim=-1)
    logprobs = logp.gather(-1, targets[:, None]).squeeze(-1)
    p = functional.softmax(logits, dim=-1)
    entropy = torch.logsumexp(logits, dim=-1) - (p * logits).sum(-1)
    return logprobs, entropy


def eager_float32(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Convert first, then the same."""
    return eager(logits.float(), targets)


def plain(logits: Tensor, targets: Tensor) -> tuple[Tensor]:
    """Write the log-prob alone."""
    logp = functional.log_softmax(logits.float(), dim=-1)
    return (logp.gather(-1, targets[:, None]).squeeze(-1),)


def make_cases(settings: Settings) -> Iterator[Case]:
    """Yield forward, forward with half of the rows masked, forward and backward."""
    dtypes, device = settings.pick_logits_dtypes(), settings.device
    for shape in settings.pick_logits_shapes():
        for dtype in dtypes:
            yield make_again(make_forward_case, shape, dtype, device)
        yield make_again(make_masked_case, shape, dtypes[0], device)
        yield make_again(make_backward_case, shape, dtypes[0], device)


def name(results: tuple[Tensor, ...]) -> Results:
    """Name the results; the baselines compute only the first one or two."""
    return dict(zip(NAMES, results, strict=False))


def make_forward_case(shape: tuple[int, int], dtype: torch.dtype, device: str = "cpu") -> Case:
    """Build one case: the logits are read once; three numbers a row are nothing beside them."""
    logits = inputs.make_logits(*shape, dtype, device=device)
    targets = inputs.make_targets(logits)
    every = (logits, targets)
    eagers = [Provider(name="eager", run=lambda: name(eager(*every)))]
    if dtype != torch.float32:
        eagers.append(Provider(name="eager float32", run=lambda: name(eager_float32(*every))))
    return Case(
        op="gather_logprobs",
        mode="forward",
        shape=shape,
        dtype=dtype,
        N=shape[0],
        V=shape[1],
        bytes_read=dtype.itemsize * logits.numel(),
        bytes_written=12 * shape[0],
        truth=lambda: name(reference(*(x[:TRUE_ROWS] for x in every))),
        providers=[
            Provider(name=OURS, run=lambda: name(rk.gather_logprobs(*every))),
            *eagers,
            Provider(name="eager plain", run=lambda: name(plain(*every))),
            make_compiled("torch.compile", eager_float32, lambda f: name(f(*every)), device),
            make_compiled("torch.compile plain", plain, lambda f: name(f(*every)), device),
            *make_foreigners(logits, targets, device),
        ],
    )


def make_foreigners(logits: Tensor, targets: Tensor, device: str) -> list[Provider]:
    """Return the packages with a kernel for the log-prob; none of them returns the entropy."""

    def call(function: Function) -> Results:
        return {"logprobs": function(logits, targets)}

    def call_padded(function: Function) -> Results:
        return {"logprobs": function(padded, targets)}

    # Liger leaves out the last row of each answer, and takes answers without a gap only.
    liger = field.find_obstacle(field.LIGER, device)
    padded = logits if liger else torch.cat([logits, logits[:1]])[None]
    return [
        field.make_foreign(field.LIGER, "log-prob", field.load_liger_logprobs, call_padded, device),
        field.make_foreign(field.QUACK, "cross-entropy", field.load_quack_logprobs, call, device),
        field.make_foreign(field.FLASH, "cross-entropy", field.load_flash_logprobs, call, device),
    ]


def make_masked_case(shape: tuple[int, int], dtype: torch.dtype, device: str = "cpu") -> Case:
    """Build one case in which half of the rows count; torch computes all of them."""
    logits = inputs.make_logits(*shape, dtype, device=device)
    targets = inputs.make_targets(logits)
    mask = inputs.make_rows_mask(shape[0], 0.5, device=device)
    kept = int(mask.sum())

    def truth() -> Results:
        few = (x[:TRUE_ROWS] for x in (logits, targets))
        return name(reference(*few, mask=mask[:TRUE_ROWS]))

    def eager_then_mask() -> Results:
        return name(tuple(x * mask for x in eager(logits, targets)))

    return Case(
        op="gather_logprobs",
        mode="forward",
        shape=shape,
        dtype=dtype,
        N=shape[0],
        V=shape[1],
        mask_share=kept / shape[0],
        bytes_read=dtype.itemsize * kept * shape[1],
        bytes_written=12 * shape[0],
        truth=truth,
        providers=[
            Provider(name=OURS, run=lambda: name(rk.gather_logprobs(logits, targets, mask=mask))),
            Provider(name="eager", run=eager_then_mask),
        ],
    )


def make_backward_case(shape: tuple[int, int], dtype: torch.dtype, device: str = "cpu") -> Case:
    """Build one case: the sum of all log-probs, back to a gradient of its own tensor."""
    leaf = inputs.make_logits(*shape, dtype, device=device).requires_grad_()
    targets = inputs.make_targets(leaf.detach())

    def call(function: Function) -> Results:
        return differentiate(-function(leaf, targets)[0].sum(), leaf)

    def part(logits: Tensor, rows: slice) -> Results:
        return {"loss": -reference(logits, targets[rows])[0].sum()}

    return Case(
        op="gather_logprobs",
        mode="forward+backward",
        shape=shape,
        dtype=dtype,
        N=shape[0],
        V=shape[1],
        bytes_read=2 * dtype.itemsize * leaf.numel(),
        bytes_written=dtype.itemsize * leaf.numel(),
        truth=lambda: add_up_truth(leaf, part),
        providers=[
            Provider(name=OURS, run=lambda: call(rk.gather_logprobs)),
            Provider(name="eager plain", run=lambda: call(plain)),
            make_compiled("torch.compile plain", plain, call, device),
        ],
    )

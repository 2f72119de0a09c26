"""gather_logprobs: log-prob, entropy and logsumexp, against log_softmax and what follows it.

The baselines with "plain" in their name compute the log-prob alone, which is less than ours does.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

import rlhf_kernels as rk
from rlhf_kernels.bench import inputs
from rlhf_kernels.bench.cases import OURS, Case, Provider, Results, Settings
from rlhf_kernels.bench.providers import Function, differentiate, make_compiled, make_gpu_only
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
    shape = settings.pick_shape((512, 50257), quick=(16, 50257))
    for dtype in settings.pick_dtypes(torch.float32, torch.bfloat16):
        yield make_forward_case(shape, dtype)
    first = settings.pick_dtypes(torch.float32)[0]
    yield make_masked_case(shape, first)
    yield make_backward_case(shape, first)


def name(results: tuple[Tensor, ...]) -> Results:
    """Name the results; the baselines compute only the first one or two."""
    return dict(zip(NAMES, results, strict=False))


def make_forward_case(shape: tuple[int, int], dtype: torch.dtype) -> Case:
    """Build one case: the logits are read once; three numbers a row are nothing beside them."""
    logits = inputs.make_logits(*shape, dtype)
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
        truth=lambda: name(reference(*every)),
        providers=[
            Provider(name=OURS, run=lambda: name(rk.gather_logprobs(*every))),
            *eagers,
            Provider(name="eager plain", run=lambda: name(plain(*every))),
            make_compiled("torch.compile", eager_float32, lambda f: name(f(*every))),
            make_compiled("torch.compile plain", plain, lambda f: name(f(*every))),
            make_gpu_only("liger_kernel", "log-prob as cross-entropy"),
            make_gpu_only("quack", "cross-entropy"),
        ],
    )


def make_masked_case(shape: tuple[int, int], dtype: torch.dtype) -> Case:
    """Build one case in which half of the rows count; torch computes all of them."""
    logits = inputs.make_logits(*shape, dtype)
    targets = inputs.make_targets(logits)
    mask = inputs.make_rows_mask(shape[0], 0.5)
    kept = int(mask.sum())

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
        truth=lambda: name(reference(logits, targets, mask=mask)),
        providers=[
            Provider(name=OURS, run=lambda: name(rk.gather_logprobs(logits, targets, mask=mask))),
            Provider(name="eager", run=eager_then_mask),
        ],
    )


def make_backward_case(shape: tuple[int, int], dtype: torch.dtype) -> Case:
    """Build one case: the sum of all log-probs, back to a gradient of its own tensor."""
    leaf = inputs.make_logits(*shape, dtype).requires_grad_()
    targets = inputs.make_targets(leaf.detach())

    def call(function: Function) -> Results:
        return differentiate(-function(leaf, targets)[0].sum(), leaf)

    return Case(
        op="gather_logprobs",
        mode="forward+backward",
        shape=shape,
        dtype=dtype,
        N=shape[0],
        V=shape[1],
        bytes_read=2 * dtype.itemsize * leaf.numel(),
        bytes_written=dtype.itemsize * leaf.numel(),
        truth=lambda: call(reference),
        providers=[
            Provider(name=OURS, run=lambda: call(rk.gather_logprobs)),
            Provider(name="eager plain", run=lambda: call(plain)),
            make_compiled("torch.compile plain", plain, call),
            make_gpu_only("liger_kernel", "log-prob as cross-entropy"),
        ],
    )

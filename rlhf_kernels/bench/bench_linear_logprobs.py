"""linear_logprobs, forward and backward of the log-probs, against torch's forms."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

import rlhf_kernels as rk
from rlhf_kernels.bench import linear
from rlhf_kernels.bench.cases import OURS, Case, Provider, Results, Settings, make_again
from rlhf_kernels.bench.providers import Function, make_compiled
from rlhf_kernels.reference.linear_logprobs import linear_logprobs as reference


def ours(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Call the op; entropy and logsumexp come with it."""
    return rk.linear_logprobs(hidden, weight, targets).logprobs.sum()


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Write the logits, then the log-probs in float32, without the entropy."""
    logp = functional.log_softmax((hidden @ weight.T).float(), dim=-1)
    return logp.gather(-1, targets[:, None]).sum()


def in_chunks(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Add up chunks."""
    return linear.chunked(plain)(hidden, weight, targets)


def make_cases(settings: Settings) -> Iterator[Case]:
    """Yield forward and backward."""
    shape = settings.pick_shape(linear.SHAPE, quick=linear.QUICK)
    for dtype in settings.pick_logits_dtypes():
        yield make_again(make_case, shape, dtype, settings.device)


def make_case(shape: tuple[int, int], dtype: torch.dtype, device: str = "cpu") -> Case:
    """Build one case; the loss is the mean log-prob, so that its error is that of one row."""
    given = linear.make_inputs(shape, dtype, device)
    wide = given if dtype == torch.float32 else given.to(torch.float32)

    def call(function: Function, by: linear.Inputs = given) -> Results:
        loss = function(by.hidden, by.weight, by.targets) / len(by.targets)
        return linear.differentiate({"loss": loss}, by)

    def part(hidden: Tensor, weight: Tensor, rows: slice) -> Results:
        logprobs = reference(hidden, weight, given.targets[rows])[0]
        return {"loss": logprobs.sum() / len(given.targets)}

    providers = [
        Provider(name=OURS, run=lambda: call(ours)),
        linear.make_products(given, recomputed=True),
        Provider(name="eager", run=lambda: call(plain)),
    ]
    if wide is not given:
        providers.append(Provider(name="eager float32", run=lambda: call(plain, wide)))
    providers += [
        make_compiled("torch.compile", plain, call, device),
        Provider(name="chunked torch", run=lambda: call(in_chunks)),
    ]
    return Case(
        op="linear_logprobs",
        mode="forward+backward",
        shape=shape,
        dtype=dtype,
        N=shape[0],
        V=shape[1],
        D=linear.HIDDEN,
        bytes_read=linear.returned_bytes(given),
        bytes_written=linear.returned_bytes(given),
        truth=lambda: linear.make_truth(given, part),
        providers=providers,
    )

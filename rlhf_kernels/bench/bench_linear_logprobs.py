"""linear_logprobs, forward and backward of the log-probs, against torch's forms."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

import rlhf_kernels as rk
from rlhf_kernels.bench import linear
from rlhf_kernels.bench.cases import OURS, Case, Provider, Results, Settings
from rlhf_kernels.bench.providers import TRUE_ROWS, Function
from rlhf_kernels.reference.linear_logprobs import linear_logprobs as reference


def ours(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Call the op; entropy and logsumexp come with it."""
    return rk.linear_logprobs(hidden, weight, targets).logprobs.sum() / len(targets)


def summed(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Write the logits, then the sum of the log-probs in float32, without the entropy."""
    logp = functional.log_softmax((hidden @ weight.T).float(), dim=-1)
    return logp.gather(-1, targets[:, None]).sum()


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Write the mean."""
    return summed(hidden, weight, targets) / len(targets)


def each(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Write the log-prob of each row, without the entropy."""
    logp = functional.log_softmax((hidden @ weight.T).float(), dim=-1)
    return logp.gather(-1, targets[:, None])[:, 0]


def make_cases(settings: Settings) -> Iterator[Case]:
    """Yield forward and backward, and on a GPU forward alone."""
    yield from linear.make_cases(make_case, settings)
    if settings.device != "cpu":
        yield from linear.make_cases(make_forward_case, settings)


def make_forward_case(shape: tuple[int, int], dtype: torch.dtype, device: str) -> Case:
    """Build one case without gradients: log-prob, entropy and logsumexp from one product."""
    given = linear.make_inputs(shape, dtype, device)
    rows = slice(0, TRUE_ROWS)

    def call(function: Function, by: linear.Inputs = given) -> Results:
        with torch.no_grad():
            return {"logprobs": function(by.hidden, by.weight, by.targets)}

    def truth() -> Results:
        hidden, weight = (x.detach().double() for x in (given.hidden[rows], given.weight))
        shown = hidden[0] @ weight[: linear.SHOWN].T
        return {"logprobs": reference(hidden, weight, given.targets[rows])[0], "shown": shown}

    return Case(
        op="linear_logprobs",
        mode="forward",
        shape=shape,
        dtype=dtype,
        N=shape[0],
        V=shape[1],
        D=linear.HIDDEN[device],
        bytes_read=linear.returned_bytes(given),
        bytes_written=12.0 * shape[0],
        truth=truth,
        providers=[
            Provider(name=OURS, run=lambda: call(lambda *x: rk.linear_logprobs(*x).logprobs)),
            linear.make_products(given, 1),
            *linear.make_plain(each, each, call, given, device),
        ],
        rounds=linear.DEVICE_ROUNDS[device],
    )


def make_case(shape: tuple[int, int], dtype: torch.dtype, device: str = "cpu") -> Case:
    """Build one case; the loss is the mean log-prob, so that its error is that of one row."""
    given = linear.make_inputs(shape, dtype, device)

    def call(function: Function, by: linear.Inputs = given) -> Results:
        loss = function(by.hidden, by.weight, by.targets)
        return linear.differentiate({"loss": loss}, by)

    def part(hidden: Tensor, weight: Tensor, rows: slice) -> Results:
        logprobs = reference(hidden, weight, given.targets[rows])[0]
        return {"loss": logprobs.sum() / len(given.targets)}

    providers = [
        Provider(name=OURS, run=lambda: call(ours)),
        linear.make_products(given, 4),
        *linear.make_plain(plain, summed, call, given, device),
    ]
    return Case(
        op="linear_logprobs",
        mode="forward+backward",
        shape=shape,
        dtype=dtype,
        N=shape[0],
        V=shape[1],
        D=linear.HIDDEN[device],
        bytes_read=linear.returned_bytes(given),
        bytes_written=linear.returned_bytes(given),
        truth=lambda: linear.make_truth(given, part),
        providers=providers,
        rounds=linear.DEVICE_ROUNDS[device],
    )

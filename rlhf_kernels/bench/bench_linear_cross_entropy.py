"""linear_cross_entropy, forward and backward, against torch's forms and the bare products."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

import rlhf_kernels as rk
from rlhf_kernels.bench import field, linear
from rlhf_kernels.bench.cases import OURS, Case, Provider, Results, Settings
from rlhf_kernels.bench.providers import Function
from rlhf_kernels.reference.linear_cross_entropy import linear_cross_entropy as reference


def ours(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Call the op."""
    return rk.linear_cross_entropy(hidden, weight, targets)[0]


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Write the logits, then the loss in float32."""
    return functional.cross_entropy((hidden @ weight.T).float(), targets)


def summed(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Write the same as a sum over rows."""
    return functional.cross_entropy((hidden @ weight.T).float(), targets, reduction="sum")


def make_cases(settings: Settings) -> Iterator[Case]:
    """Yield forward and backward."""
    yield from linear.make_cases(make_case, settings)


def make_case(shape: tuple[int, int], dtype: torch.dtype, device: str = "cpu") -> Case:
    """Build one case: hidden states and weight read once, their gradients written."""
    given = linear.make_inputs(shape, dtype, device)

    def call(function: Function, by: linear.Inputs = given) -> Results:
        loss = function(by.hidden, by.weight, by.targets)
        return linear.differentiate({"loss": loss}, by)

    def part(hidden: Tensor, weight: Tensor, rows: slice) -> Results:
        loss = reference(hidden, weight, given.targets[rows], denominator=len(given.targets))
        return {"loss": loss}

    providers = [
        Provider(name=OURS, run=lambda: call(ours)),
        linear.make_products(given),
        *linear.make_plain(plain, summed, call, given, device),
        make_torch(call),
        field.make_foreign(
            field.LIGER, "linear CE", field.load_liger_linear_cross_entropy, call, device
        ),
        field.make_foreign(
            field.CUT, "linear CE", field.load_cut_linear_cross_entropy, call, device
        ),
    ]
    return Case(
        op="linear_cross_entropy",
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


def make_torch(call: Function) -> Provider:
    """Return torch's own function where this torch has it."""
    function = getattr(functional, "linear_cross_entropy", None)
    if function is None:
        return Provider(name="F.linear_cross_entropy", run=None, note="this torch has none")
    return Provider(name="F.linear_cross_entropy", run=lambda: call(function))

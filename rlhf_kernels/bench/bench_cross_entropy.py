"""cross_entropy, forward and backward, against torch's own and the packages made for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

import rlhf_kernels as rk
from rlhf_kernels.bench import field, inputs
from rlhf_kernels.bench.cases import OURS, Case, Provider, Results, Settings, make_again
from rlhf_kernels.bench.providers import Function, add_up_truth, differentiate, make_compiled
from rlhf_kernels.reference.cross_entropy import cross_entropy as reference


def eager_float32(logits: Tensor, targets: Tensor) -> Tensor:
    """Convert first, then call torch's loss."""
    return functional.cross_entropy(logits.float(), targets)


def ours(logits: Tensor, targets: Tensor) -> Tensor:
    """Call the op; the gradient has memory of its own."""
    return rk.cross_entropy(logits, targets)[0]


def ours_inplace(logits: Tensor, targets: Tensor) -> Tensor:
    """Call the op; the gradient replaces the logits."""
    return rk.cross_entropy(logits, targets, inplace=True)[0]


def make_cases(settings: Settings) -> Iterator[Case]:
    """Yield forward and backward."""
    for shape in settings.pick_logits_shapes():
        for dtype in settings.pick_logits_dtypes():
            yield make_again(make_case, shape, dtype, settings.device)


def make_case(shape: tuple[int, int], dtype: torch.dtype, device: str = "cpu") -> Case:
    """Build one case: the logits read once, their gradient written."""
    leaf = inputs.make_logits(*shape, dtype, device=device)
    targets = inputs.make_targets(leaf)
    written = leaf.clone().requires_grad_()
    leaf.requires_grad_()

    def call(function: Function, logits: Tensor = leaf) -> Results:
        return differentiate(function(logits, targets), logits)

    def restore() -> None:
        written.data.copy_(leaf.detach())

    def part(logits: Tensor, rows: slice) -> Results:
        return {"loss": reference(logits, targets[rows], denominator=len(targets))}

    providers = [
        Provider(name=OURS, run=lambda: call(ours_inplace, written), prepare=restore),
        Provider(name="rlhf_kernels new gradient", run=lambda: call(ours)),
        Provider(name="eager", run=lambda: call(functional.cross_entropy)),
    ]
    if dtype != torch.float32:
        providers.append(Provider(name="eager float32", run=lambda: call(eager_float32)))
    providers += [
        make_compiled("torch.compile", eager_float32, call, device),
        *make_foreigners(lambda function: call(function, written), restore, device),
    ]
    return Case(
        op="cross_entropy",
        mode="forward+backward",
        shape=shape,
        dtype=dtype,
        N=shape[0],
        V=shape[1],
        bytes_read=dtype.itemsize * leaf.numel(),
        bytes_written=dtype.itemsize * leaf.numel(),
        truth=lambda: add_up_truth(leaf, part),
        providers=providers,
    )


def make_foreigners(
    call: Callable[[Function], Results], restore: Callable[[], None], device: str
) -> list[Provider]:
    """Return the packages made for it, each in the form that overwrites the logits."""
    loaders = [
        (field.LIGER, field.load_liger_cross_entropy),
        (field.QUACK, field.load_quack_cross_entropy),
        (field.FLASH, field.load_flash_cross_entropy),
    ]
    linear_only = "starts from hidden states: to be compared with ops that do"
    return [
        *(
            field.make_foreign(package, "cross-entropy", load, call, device, restore)
            for package, load in loaders
        ),
        Provider(
            name="cut-cross-entropy",
            run=None,
            note=field.find_obstacle(field.CUT, device) or linear_only,
        ),
    ]

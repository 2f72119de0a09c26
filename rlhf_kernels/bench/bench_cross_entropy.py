"""cross_entropy, forward and backward, against torch's own and the packages made for it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

import rlhf_kernels as rk
from rlhf_kernels.bench import inputs
from rlhf_kernels.bench.cases import OURS, Case, Provider, Results, Settings
from rlhf_kernels.bench.providers import Function, differentiate, make_compiled, make_gpu_only
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
    shape = settings.pick_shape((512, 50257), quick=(16, 50257))
    for dtype in settings.pick_dtypes(torch.float32, torch.bfloat16):
        yield make_case(shape, dtype)


def make_case(shape: tuple[int, int], dtype: torch.dtype) -> Case:
    """Build one case: the logits read once, their gradient written."""
    leaf = inputs.make_logits(*shape, dtype)
    targets = inputs.make_targets(leaf)
    written = leaf.clone().requires_grad_()
    leaf.requires_grad_()

    def call(function: Function, logits: Tensor = leaf) -> Results:
        return differentiate(function(logits, targets), logits)

    def restore() -> None:
        written.data.copy_(leaf.detach())

    providers = [
        Provider(name=OURS, run=lambda: call(ours_inplace, written), prepare=restore),
        Provider(name="rlhf_kernels new gradient", run=lambda: call(ours)),
        Provider(name="eager", run=lambda: call(functional.cross_entropy)),
    ]
    if dtype != torch.float32:
        providers.append(Provider(name="eager float32", run=lambda: call(eager_float32)))
    providers += [
        make_compiled("torch.compile", eager_float32, call),
        *(make_gpu_only(name, "cross-entropy") for name in ("liger_kernel", "quack", "flash_attn")),
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
        truth=lambda: call(reference),
        providers=providers,
    )

"""ppo_loss_from_logits, forward and backward: the whole policy objective from the logits.

The baselines return what ours returns: the loss, its gradient, and the entropy that every PPO code
logs. Those with "plain" in their name leave the entropy out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

import rlhf_kernels as rk
from rlhf_kernels.bench import inputs
from rlhf_kernels.bench.cases import OURS, Case, Provider, Results, Settings
from rlhf_kernels.bench.providers import Function, differentiate, make_compiled, make_gpu_only
from rlhf_kernels.reference.ppo_loss_from_logits import ppo_loss_from_logits as reference

CLIPRANGE = 0.2


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The inputs of a case; `logits` is the one that is differentiated."""

    logits: Tensor
    targets: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    mask: Tensor

    def others(self) -> tuple[Tensor, ...]:
        """Return everything besides the logits."""
        return self.targets, self.old_logprobs, self.advantages, self.mask


def clipped_loss(logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """Write the clipped policy loss as a masked mean."""
    ratio = torch.exp(logprobs - old)
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - CLIPRANGE, 1 + CLIPRANGE)
    return (torch.max(unclipped, clipped) * mask).sum() / mask.sum()


def plain(
    logits: Tensor, targets: Tensor, old: Tensor, advantages: Tensor, mask: Tensor
) -> tuple[Tensor]:
    """Write the loss alone."""
    logp = functional.log_softmax(logits, dim=-1)
    logprobs = logp.gather(-1, targets[:, None]).squeeze(-1)
    return (clipped_loss(logprobs, old, advantages, mask),)


def eager(
    logits: Tensor, targets: Tensor, old: Tensor, advantages: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Write the loss, and the entropy for the log, as PPO code does."""
    loss = plain(logits, targets, old, advantages, mask)[0]
    detached = logits.detach()
    p = functional.softmax(detached, dim=-1)
    entropy = torch.logsumexp(detached, dim=-1) - (p * detached).sum(-1)
    return loss, (entropy * mask).sum() / mask.sum()


def eager_float32(logits: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
    """Convert first, then the same."""
    return eager(logits.float(), *others)


def plain_float32(logits: Tensor, *others: Tensor) -> tuple[Tensor]:
    """Convert first, then the loss alone."""
    return plain(logits.float(), *others)


def ours(logits: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
    """Call the op; the gradient has memory of its own."""
    loss, stats = rk.ppo_loss_from_logits(logits, *others, cliprange=CLIPRANGE)
    return loss, stats["entropy"]


def ours_inplace(logits: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
    """Call the op; the gradient replaces the logits."""
    loss, stats = rk.ppo_loss_from_logits(logits, *others, cliprange=CLIPRANGE, inplace=True)
    return loss, stats["entropy"]


def truth(logits: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
    """Call the reference."""
    loss, stats = reference(logits, *others, cliprange=CLIPRANGE)
    return loss, stats["entropy"]


def make_cases(settings: Settings) -> Iterator[Case]:
    """Yield forward and backward with every row, and in float32 with half of the rows masked."""
    shape = settings.pick_shape((512, 50257), quick=(16, 50257))
    dtypes = settings.pick_dtypes(torch.float32, torch.bfloat16)
    for dtype in dtypes:
        yield make_case(shape, dtype, 1.0)
    yield make_case(shape, dtypes[0], 0.5)


def make_batch(shape: tuple[int, int], dtype: torch.dtype, share: float) -> Batch:
    """Draw the inputs: log-probs near those of the logits, so that some ratios are clipped."""
    logits = inputs.make_logits(*shape, dtype)
    targets = inputs.make_targets(logits)
    logprobs = rk.gather_logprobs(logits, targets).logprobs
    return Batch(
        logits=logits,
        targets=targets,
        old_logprobs=inputs.make_near(logprobs, spread=0.2),
        advantages=inputs.make_normal(shape[0], dtype=torch.float32),
        mask=inputs.make_rows_mask(shape[0], share),
    )


def make_case(shape: tuple[int, int], dtype: torch.dtype, share: float) -> Case:
    """Build one case: the logits of the rows that count read once, a gradient written per row."""
    batch = make_batch(shape, dtype, share)
    written = batch.logits.clone().requires_grad_()
    leaf = batch.logits.requires_grad_()
    kept = int(batch.mask.sum())

    def call(function: Function, logits: Tensor = leaf) -> Results:
        loss, *rest = function(logits, *batch.others())
        return differentiate(loss, logits, **dict(zip(["entropy"], rest, strict=False)))

    return Case(
        op="ppo_loss_from_logits",
        mode="forward+backward",
        shape=shape,
        dtype=dtype,
        N=shape[0],
        V=shape[1],
        mask_share=kept / shape[0],
        bytes_read=dtype.itemsize * kept * shape[1],
        bytes_written=dtype.itemsize * leaf.numel(),
        truth=lambda: call(truth),
        providers=make_providers(batch, call, written, full=share == 1),
    )


def make_providers(batch: Batch, call: Function, written: Tensor, full: bool) -> list[Provider]:
    """Return everybody; without `full` only ours and the eager loss, which ignores the mask."""

    def restore() -> None:
        written.data.copy_(batch.logits.detach())

    providers = [
        Provider(name=OURS, run=lambda: call(ours_inplace, written), prepare=restore),
        Provider(name="rlhf_kernels new gradient", run=lambda: call(ours)),
        Provider(name="eager", run=lambda: call(eager)),
    ]
    if not full:
        return providers
    if batch.logits.dtype != torch.float32:
        providers.append(Provider(name="eager float32", run=lambda: call(eager_float32)))
    return [
        *providers,
        Provider(name="eager plain", run=lambda: call(plain_float32)),
        make_compiled("torch.compile", eager_float32, call),
        make_compiled("torch.compile plain", plain_float32, call),
        make_gpu_only("liger_kernel", "GRPO loss"),
    ]

"""ppo_loss_from_logits, forward and backward: the whole policy objective from the logits.

The baselines return what ours returns: the loss, its gradient, and the entropy that every PPO code
logs. Those with "plain" in their name leave the entropy out. The batch has one advantage per
answer, as GRPO has it, so that packages which know no other form compute the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

import rlhf_kernels as rk
from rlhf_kernels.bench import field, inputs
from rlhf_kernels.bench.cases import OURS, Case, Provider, Results, Settings, make_again
from rlhf_kernels.bench.providers import Function, add_up_truth, differentiate, make_compiled
from rlhf_kernels.reference.ppo_loss_from_logits import ppo_loss_from_logits as reference

CLIPRANGE = 0.2
PENALTIES = {"entropy_coef": 0.01, "kl_coef": 0.05}
ANSWERS = 8


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The inputs of a case; `logits` is the one that is differentiated."""

    logits: Tensor
    targets: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    mask: Tensor
    ref_logits: Tensor | None = None

    def others(self) -> tuple[Tensor, ...]:
        """Return everything besides the logits."""
        every = (self.targets, self.old_logprobs, self.advantages, self.mask)
        return every if self.ref_logits is None else (*every, self.ref_logits)


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
    logits: Tensor,
    targets: Tensor,
    old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    ref_logits: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Write the loss, and the entropy for the log, as PPO code does; with penalties if asked."""
    if ref_logits is not None:
        return penalised(logits, targets, old, advantages, mask, ref_logits)
    loss = plain(logits, targets, old, advantages, mask)[0]
    detached = logits.detach()
    p = functional.softmax(detached, dim=-1)
    entropy = torch.logsumexp(detached, dim=-1) - (p * detached).sum(-1)
    return loss, (entropy * mask).sum() / mask.sum()


def penalised(
    logits: Tensor,
    targets: Tensor,
    old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    ref_logits: Tensor,
) -> tuple[Tensor, Tensor]:
    """Write the loss with an entropy bonus and the exact KL to the reference."""
    logp = functional.log_softmax(logits, dim=-1)
    logq = functional.log_softmax(ref_logits.to(logits.dtype), dim=-1)
    logprobs = logp.gather(-1, targets[:, None]).squeeze(-1)
    p = logp.exp()
    count = mask.sum()
    entropy = (-(p * logp).sum(-1) * mask).sum() / count
    kl = ((p * (logp - logq)).sum(-1) * mask).sum() / count
    loss = clipped_loss(logprobs, old, advantages, mask)
    loss = loss - PENALTIES["entropy_coef"] * entropy + PENALTIES["kl_coef"] * kl
    return loss, entropy.detach()


def eager_float32(logits: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
    """Convert first, then the same."""
    return eager(logits.float(), *others)


def plain_float32(logits: Tensor, *others: Tensor) -> tuple[Tensor]:
    """Convert first, then the loss alone."""
    return plain(logits.float(), *others)


def ours(logits: Tensor, *others: Tensor, inplace: bool = False) -> tuple[Tensor, Tensor]:
    """Call the op; the gradient has memory of its own."""
    every, ref = others[:4], others[4:]
    options = PENALTIES | {"ref_logits": ref[0]} if ref else {}
    loss, stats = rk.ppo_loss_from_logits(
        logits, *every, cliprange=CLIPRANGE, inplace=inplace, **options
    )
    return loss, stats["entropy"]


def ours_inplace(logits: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
    """Call the op; the gradient replaces the logits."""
    return ours(logits, *others, inplace=True)


def make_cases(settings: Settings) -> Iterator[Case]:
    """Yield every row; for the first dtype also half of them masked, and penalties as well."""
    dtypes, device = settings.pick_logits_dtypes(), settings.device
    for shape in settings.pick_logits_shapes():
        for dtype in dtypes:
            yield make_again(make_case, shape, dtype, device, 1.0)
        yield make_again(make_case, shape, dtypes[0], device, 0.5)
        yield make_again(make_case, shape, dtypes[0], device, 1.0, True)


def make_batch(
    shape: tuple[int, int], dtype: torch.dtype, device: str, share: float, penalties: bool
) -> Batch:
    """Draw the inputs: log-probs near those of the logits, so that some ratios are clipped."""
    logits = inputs.make_logits(*shape, dtype, device=device)
    targets = inputs.make_targets(logits)
    logprobs = rk.gather_logprobs(logits, targets).logprobs
    tokens = count_tokens(shape[0])
    answers = inputs.make_normal(shape[0] // tokens, dtype=torch.float32, device=device)
    return Batch(
        logits=logits,
        targets=targets,
        old_logprobs=inputs.make_near(logprobs, spread=0.2),
        advantages=answers.repeat_interleave(tokens),
        mask=inputs.make_rows_mask(shape[0], share, device=device),
        ref_logits=inputs.make_near(logits, spread=0.1) if penalties else None,
    )


def count_tokens(rows: int) -> int:
    """Return how many rows belong to one answer."""
    return rows // ANSWERS if rows % ANSWERS == 0 else 1


def make_case(
    shape: tuple[int, int],
    dtype: torch.dtype,
    device: str = "cpu",
    share: float = 1.0,
    penalties: bool = False,
) -> Case:
    """Build one case: the logits of the rows that count read once, a gradient written per row."""
    batch = make_batch(shape, dtype, device, share, penalties)
    written = batch.logits.clone().requires_grad_()
    leaf = batch.logits.requires_grad_()
    kept = int(batch.mask.sum())

    def call(function: Function, logits: Tensor = leaf) -> Results:
        loss, *rest = function(logits, *batch.others())
        return differentiate(loss, logits, **dict(zip(["entropy"], rest, strict=False)))

    def part(logits: Tensor, rows: slice) -> Results:
        every, ref = batch.others()[:4], batch.others()[4:]
        options = PENALTIES | {"ref_logits": ref[0][rows]} if ref else {}
        few = (tensor[rows] for tensor in every)
        loss, stats = reference(logits, *few, cliprange=CLIPRANGE, denominator=kept, **options)
        return {"loss": loss, "entropy": stats["entropy"]}

    return Case(
        op="ppo_loss_from_logits",
        mode="forward+backward" + (" with exact KL" if penalties else ""),
        shape=shape,
        dtype=dtype,
        N=shape[0],
        V=shape[1],
        mask_share=kept / shape[0],
        bytes_read=(2 if penalties else 1) * dtype.itemsize * kept * shape[1],
        bytes_written=dtype.itemsize * leaf.numel(),
        truth=lambda: add_up_truth(leaf, part),
        providers=make_providers(batch, call, written, device, full=share == 1),
    )


def make_providers(
    batch: Batch, call: Function, written: Tensor, device: str, full: bool
) -> list[Provider]:
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
    compiled = make_compiled("torch.compile", eager_float32, call, device)
    if batch.ref_logits is not None:
        return [*providers, compiled]
    return [
        *providers,
        Provider(name="eager plain", run=lambda: call(plain_float32)),
        compiled,
        make_compiled("torch.compile plain", plain_float32, call, device),
        make_liger(batch, device),
    ]


def make_liger(batch: Batch, device: str) -> Provider:
    """Return Liger's GRPO loss without its KL term, which then is the clipped loss alone."""
    rows, vocabulary = batch.logits.shape
    tokens = count_tokens(rows)
    if field.find_obstacle(field.LIGER, device):
        return field.make_foreign(field.LIGER, "GRPO loss", field.load_liger_grpo, dict, device)
    # One more row per answer, as its interface wants the logits before they are shifted.
    padded = batch.logits.new_zeros(rows // tokens, tokens + 1, vocabulary)
    leaf = padded.requires_grad_()

    def restore() -> None:
        leaf.data[:, :tokens].copy_(batch.logits.detach().view(-1, tokens, vocabulary))

    def call(function: Function) -> Results:
        by_answer = (x.view(-1, tokens) for x in (batch.old_logprobs, batch.targets))
        advantages = batch.advantages.view(-1, tokens)[:, 0].contiguous()
        mask = batch.mask.view(-1, tokens)
        loss = function(leaf, *by_answer, advantages, mask, CLIPRANGE)
        grad = torch.autograd.grad(loss, leaf)[0]
        # The truth holds the leading rows of the batch: those of the first answer at most.
        return {"loss": loss, "grad": grad[0, :tokens]}

    return field.make_foreign(
        field.LIGER, "GRPO loss", field.load_liger_grpo, call, device, restore
    )

"""linear_ppo_loss, forward and backward, against torch's forms and the bare products."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

import rlhf_kernels as rk
from rlhf_kernels.bench import field, inputs, linear
from rlhf_kernels.bench.bench_ppo_loss_from_logits import count_tokens
from rlhf_kernels.bench.cases import OURS, Case, Provider, Results, Settings
from rlhf_kernels.bench.providers import Function
from rlhf_kernels.reference.linear_ppo_loss import linear_ppo_loss as reference

CLIPRANGE = 0.2


def ours(hidden: Tensor, weight: Tensor, targets: Tensor, old: Tensor, adv: Tensor) -> Tensor:
    """Call the op; entropy and statistics come with it."""
    mask = torch.ones_like(targets, dtype=torch.bool)
    return rk.linear_ppo_loss(
        hidden, weight, targets, old, adv, mask, cliprange=CLIPRANGE, packed=True
    )[0]


def summed(hidden: Tensor, weight: Tensor, targets: Tensor, old: Tensor, adv: Tensor) -> Tensor:
    """Write the sum of the clipped losses, without the entropy."""
    logp = functional.log_softmax((hidden @ weight.T).float(), dim=-1)
    ratio = torch.exp(logp.gather(-1, targets[:, None])[:, 0] - old)
    return torch.max(-adv * ratio, -adv * ratio.clamp(1 - CLIPRANGE, 1 + CLIPRANGE)).sum()


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, *rows: Tensor) -> Tensor:
    """Write the mean."""
    return summed(hidden, weight, targets, *rows) / len(targets)


def make_cases(settings: Settings) -> Iterator[Case]:
    """Yield forward and backward."""
    yield from linear.make_cases(make_case, settings)


def make_case(shape: tuple[int, int], dtype: torch.dtype, device: str = "cpu") -> Case:
    """Build one case: old log-probs near the new ones, so that some ratios are clipped."""
    given = linear.make_inputs(shape, dtype, device)
    with torch.no_grad():
        logprobs = rk.linear_logprobs(given.hidden, given.weight, given.targets).logprobs
    old = inputs.make_near(logprobs, spread=0.2)
    tokens = 1 if device == "cpu" else count_tokens(shape[0])
    answers = inputs.make_normal(shape[0] // tokens, dtype=torch.float32, device=device)
    advantages = answers.repeat_interleave(tokens)  # one for each answer, as Liger's has it

    def call(function: Function, by: linear.Inputs = given) -> Results:
        loss = function(by.hidden, by.weight, by.targets, old, advantages)
        return linear.differentiate({"loss": loss}, by)

    def part(hidden: Tensor, weight: Tensor, rows: slice) -> Results:
        batch = [x[rows] for x in (given.targets, old, advantages)]
        mask = torch.ones_like(batch[0], dtype=torch.bool)
        count = len(given.targets)
        return {
            "loss": reference(hidden, weight, *batch, mask, cliprange=CLIPRANGE, denominator=count)[
                0
            ]
        }

    providers = [
        Provider(name=OURS, run=lambda: call(ours)),
        linear.make_products(given),
        *linear.make_plain(plain, summed, call, given, device),
        make_liger(given, old, answers, device),
    ]
    return Case(
        op="linear_ppo_loss",
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


def make_liger(given: linear.Inputs, old: Tensor, answers: Tensor, device: str) -> Provider:
    """Return Liger's fused linear GRPO without its KL term, which then is this loss."""
    shape = (len(answers), len(given.targets) // len(answers))

    def call(function: Function) -> Results:
        targets, before = given.targets.view(shape), old.view(shape)
        mask = torch.ones_like(targets)
        hidden = given.hidden.view(*shape, -1)
        loss = function(hidden, given.weight, targets, before, answers, mask, CLIPRANGE)
        return linear.differentiate({"loss": loss}, given)

    return field.make_foreign(
        field.LIGER, "linear GRPO", field.load_liger_linear_grpo, call, device
    )

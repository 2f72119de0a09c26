"""What several stages do: find their inputs, train a language model for one step."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel

from toolkit.data.batches import Batch
from toolkit.data.tokenize import Text, load_text
from toolkit.models.heads import Policy
from toolkit.models.load import load_base, load_policy
from toolkit.spec.errors import StageFailed
from toolkit.stages.context import StageContext
from toolkit.training.device import read
from toolkit.training.optim import Updater
from toolkit.training.random import Stream

Record = dict[str, Any]
Section = TypeVar("Section")


def needed(section: Section | None) -> Section:
    """Return a section that the graph makes sure of: the stage runs only where it is there."""
    assert section is not None
    return section


def text_of(ctx: StageContext) -> Text:
    """The run's one tokenizer."""
    return load_text(ctx.inputs["data"] / "tokenizer", ctx.spec.text)


def stream_of(ctx: StageContext) -> Stream:
    """The stage's random numbers."""
    return Stream(ctx.spec.seed, ctx.kind, ctx.round)


def pretrained_folder(ctx: StageContext) -> Path | None:
    """Where the pretrained model lies.

    Or None when it is made from scratch and never pretrained.
    """
    if "pretrain" in ctx.inputs:
        return ctx.inputs["pretrain"] / "model"
    path = ctx.spec.models.base.path
    return None if path is None else Path(path)


def load_pretrained(ctx: StageContext, text: Text) -> PreTrainedModel:
    """The model before SFT."""
    folder = pretrained_folder(ctx)
    if folder is not None:
        return load_policy(folder, text, ctx.device)
    return load_base(ctx.spec.models.base, text, Stream(ctx.spec.seed, "base"), ctx.device)


def sft_folder(ctx: StageContext) -> Path | None:
    """Where the SFT model lies; the pretrained one when the spec has `sft: null`.

    It is the selected epoch's after `select`, whose folder the graph then names "sft".
    """
    return ctx.inputs["sft"] / "model" if "sft" in ctx.inputs else pretrained_folder(ctx)


def load_sft(ctx: StageContext, text: Text) -> PreTrainedModel:
    """The model after SFT; the pretrained one when the spec has `sft: null`."""
    folder = sft_folder(ctx)
    return load_pretrained(ctx, text) if folder is None else load_policy(folder, text, ctx.device)


def start_folder(ctx: StageContext) -> Path | None:
    """Where the policy starts and what its KL is measured to: `init`, else the SFT model."""
    return ctx.inputs["init"] / "model" if "init" in ctx.inputs else sft_folder(ctx)


def load_start(ctx: StageContext, text: Text) -> PreTrainedModel:
    """The model that a learner starts from; the same in every round."""
    folder = start_folder(ctx)
    return load_pretrained(ctx, text) if folder is None else load_policy(folder, text, ctx.device)


def reward_folder(ctx: StageContext) -> Path | None:
    """Where the reward model lies, or None when the run has none."""
    trained = ctx.spec.models.reward_trained
    if trained is not None:
        return Path(trained.path)
    return ctx.inputs["reward"] / "model" if "reward" in ctx.inputs else None


def pretrain_stream(ctx: StageContext, part: str) -> torch.Tensor | None:
    """Token stream of the pretraining text, int32, or None when the run has no such text."""
    import numpy as np

    path = ctx.inputs["data"] / f"pretrain.{part}.npy"
    return torch.from_numpy(np.load(path)) if path.exists() else None


def needed_text(ctx: StageContext, length: int, key: str) -> torch.Tensor:
    """Token stream of the pretraining text, to cut pieces of `length` tokens from.

    Raises:
        StageFailed: it is too short for the `length` that the spec's `key` asks for.
    """
    tokens = pretrain_stream(ctx, "train")
    have = 0 if tokens is None else len(tokens)
    if tokens is None or have <= length + 1:
        raise StageFailed(
            f"{key} is {length} but the pretraining text has {have} tokens; "
            f"give data.pretrain more text or lower {key}"
        )
    return tokens


def backward_cross_entropy(
    policy: Policy, batch: Batch, *, weight: float = 1.0, denominator: int | None = None
) -> float:
    """Accumulate gradients of weight * mean token cross-entropy, in micro-batches.

    Return the unweighted loss.
    """
    tokens = batch.tokens if denominator is None else denominator
    losses: list[torch.Tensor] = []
    for _, micro in policy.micro(batch):
        losses.append(policy.backward_text_loss(micro, tokens / weight))
    total = 0.0
    for own in read(losses):
        total += own
    return total / weight


@torch.no_grad()
def mean_cross_entropy(policy: Policy, batches: Iterable[Batch]) -> float:
    """Mean token cross-entropy in nats, weighted by tokens."""
    total, tokens = 0.0, 0
    for batch in batches:
        logprobs, _ = policy.logprobs(batch)
        total -= float(logprobs.double().sum())
        tokens += batch.tokens
    return total / max(1, tokens)


def language_model_state(model: PreTrainedModel, updater: Updater) -> dict[str, Any]:
    """State of a stage that trains one model."""
    return {"model": model.state_dict(), "updater": updater.state()}

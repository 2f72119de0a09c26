"""Sections of a spec that say where a run starts: hardware, models, text, data.

`key(default, text, ...)` declares a field; see `toolkit.spec.schema`, which holds the other
sections.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


def key(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    open_low: bool = False,
    kind: str | None = None,
) -> Any:
    """Declare a spec key.

    `kind` names a format the loader checks: duration, function, path, weights, k; or_sft: a
    section, or the word sft for null.
    """
    meta = {"text": text, "low": low, "high": high, "open_low": open_low, "kind": kind}
    if isinstance(default, type) or callable(default):
        return field(default_factory=default, metadata=meta)
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=meta)
    return field(default=default, metadata=meta)


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Where and how the numbers are computed; part of every stage's identity."""

    device: Literal["auto", "cpu", "cuda"] = key(
        "auto", "cuda: the first visible NVIDIA GPU; auto prints what it chose and why"
    )
    precision: Literal["fp32", "bf16"] = key(
        "fp32", "compute type of matmuls; weights, optimizer, EMA, log-probs and losses stay fp32"
    )
    threads: int | None = key(None, "CPU threads; null: all cores", low=1)
    micro_batch: int | None = key(
        None,
        "sequences per forward; null: equal parts of up to 2000 tokens on a CPU, where more are "
        "not faster and take more memory; a whole minibatch on a GPU",
        low=1,
    )
    fused_head: bool = key(
        True,
        "losses straight from hidden states and the head's weight: logits of a whole batch never "
        "exist, the last layer's feed-forward is computed only where it is read, and a prompt with "
        "several ranked answers once for all of them; false: the whole model and its own logits, "
        "for comparison or for a head that is no matrix",
    )
    gradient_checkpointing: bool = key(False, "recompute activations in backward to save memory")
    cuda_graphs: Literal["auto", "off"] = key(
        "auto",
        "on a GPU, sampling records its step once and replays it, where the model's can be; off: "
        "every step is launched kernel by kernel",
    )
    deterministic: bool = key(
        True, "same spec, data and machine give the same bits, also after a crash"
    )


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A local Hugging Face folder (`path`), or a new model (`architecture` and `config`)."""

    path: str | None = key(None, "local Hugging Face folder", kind="path")
    architecture: str | None = key(
        None, "transformers model type for a model from scratch, such as gpt2"
    )
    config: dict[str, Any] = key({}, "configuration values for a model from scratch")


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """A finished model on disk."""

    path: str = key("", "local Hugging Face folder", kind="path")


@dataclass(frozen=True, kw_only=True)
class Models:
    """The models a run starts from."""

    base: ModelSource = key(ModelSource, "the pretrained language model, or a new one")
    reward: ModelSource | None = key(
        None,
        "backbone of the reward model; null: the SFT model's; if set, reward.init must be base",
    )
    reward_trained: ModelFolder | None = key(
        None, "a finished reward model; collect, label and reward are then skipped"
    )


@dataclass(frozen=True, kw_only=True)
class Text:
    """How prompts and responses become tokens."""

    tokenizer: str | None = key(
        None, "tokenizer folder; null: the base model's, or the task's", kind="path"
    )
    template: str | None = key(
        None,
        "text of a whole example with {prompt} and {response}, or `chat` for the tokenizer's chat "
        "template; null: the task's, else '{prompt}\\n\\n{response}'",
    )
    max_prompt: int = key(1024, "tokens; longer prompts are dropped and counted (paper: 1k)", low=1)
    max_response: int = key(1024, "tokens, end-of-text included (paper: 1k)", low=1)
    pad: Literal["auto"] = key(
        "auto", "the tokenizer's own if it differs from end-of-text, else <|pad|> as id V"
    )


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One input file."""

    path: str = key(
        "", "JSON Lines, parquet, CSV, a datasets folder; pretrain: also .txt", kind="path"
    )
    fields: dict[str, str] = key({}, "our name -> the file's column, dotted for nested records")
    on_bad: Literal["error", "skip"] = key("error", "what to do with a bad record")


@dataclass(frozen=True, kw_only=True)
class Split:
    """Held-out share."""

    valid: float = key(0.1, "share of users (or records) held out", low=0.0, high=0.9)
    by: Literal["user", "record"] = key("user", "nobody's prompts on both sides (paper, 3.2)")
    per_user: int | None = key(
        200,
        "different prompts of one user kept in a file, the first ones (3.2: 200); null: all",
        low=1,
    )


@dataclass(frozen=True, kw_only=True)
class Dedup:
    """Prompts that begin alike count as one (paper, 3.2: a long common prefix)."""

    prefix: int = key(
        200,
        "characters; of a file's prompts that share their first ones the first stays, and they "
        "fall on one side of the split; ours, the paper prints no length",
        low=1,
    )


@dataclass(frozen=True, kw_only=True)
class Task:
    """An embedded generator with a known oracle."""

    name: Literal["sort", "facts"] | None = key(None, "embedded task")
    fn: str | None = key(None, "your generator, path/to/file.py:function", kind="function")
    seed: int = key(1, "seed of the task's data", low=0)
    demonstrations: int = key(4000, "demonstrations", low=1)
    wrong: float = key(0.5, "share of demonstrations wrong on purpose", low=0.0, high=1.0)
    prompts: int = key(8192, "training prompts for collect and PPO", low=1)
    valid_prompts: int = key(512, "held-out prompts for evaluation", low=1)
    pretrain: int = key(20000, "lines of pretraining text", low=1)


@dataclass(frozen=True, kw_only=True)
class Data:
    """Input files, or a task that makes them."""

    demonstrations: DataFile | None = key(None, "demonstrations: prompt, response (user)")
    prompts: DataFile | None = key(None, "prompts: prompt (user)")
    rankings: DataFile | None = key(
        None,
        "rankings: prompt, responses, ranks (labeler, ratings, metadata); or pairs",
    )
    pretrain: DataFile | None = key(None, "pretraining text, for pretrain, ptx and perplexity")
    split: Split = key(Split, "held-out share")
    dedup: Dedup | None = key(None, "drop prompts of files that begin alike; null: keep all")
    personal: Literal["keep", "drop"] = key(
        "keep",
        "records of files that hold an e-mail address, a phone, card, account or social security "
        "number or an internet address (3.2: filtered)",
    )
    task: Task | None = key(None, "an embedded task in place of files")

"""Contradictions about models and tokens. See rules.py for the form of a rule."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from toolkit.spec.architectures import architecture_names, config_keys
from toolkit.spec.model_folder import read_json
from toolkit.spec.model_type import head_fault, wanted_heads
from toolkit.spec.nearest import did_you_mean, nearest_name
from toolkit.spec.rules import Finding, RuleTable
from toolkit.spec.schema import ModelSource, Spec

RULES = RuleTable()


_FROM_TEXT = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")


def _sources(spec: Spec) -> Iterator[tuple[str, ModelSource]]:
    yield "models.base", spec.models.base
    if spec.models.reward is not None:
        yield "models.reward", spec.models.reward


@RULES.rule("models")
def model_is_a_folder_or_new(spec: Spec) -> Iterator[Finding]:
    """A model source is exactly one of path and architecture."""
    for name, source in _sources(spec):
        if source.path and source.architecture:
            message = "give path (a finished model) or architecture (a new one), not both"
            yield (f"{name}.architecture", f"{name}.path"), message
        elif not source.path and not source.architecture:
            fix = "give path (a Hugging Face folder), or architecture and config for a new model"
            yield (name, "models"), f"{name} names no model; {fix}"
        elif source.path and source.config:
            message = "a finished model has its own configuration; remove config"
            yield (f"{name}.config",), message


@RULES.rule("models")
def architecture_exists(spec: Spec) -> Iterator[Finding]:
    """The architecture is a language model of transformers, and has each config key."""
    for name, source in _sources(spec):
        if not source.architecture:
            continue
        known = architecture_names()
        if known and source.architecture.replace("-", "_") not in known:
            near = nearest_name(source.architecture, known)
            hint = f'did you mean "{near}"?' if near else "name one such as gpt2, gpt_neox or llama"
            message = f'transformers has no architecture "{source.architecture}"; {hint}'
            yield (f"{name}.architecture",), message
            continue
        if fault := head_fault(source.architecture, source.config, wanted_heads(spec, name)):
            yield (f"{name}.architecture",), f'"{source.architecture}" is {fault}'
        allowed = config_keys(source.architecture)
        for key in source.config:
            if key in _FROM_TEXT:
                message = "comes from the tokenizer; remove it"
                yield (f"{name}.config.{key}",), message
            elif allowed and key not in allowed:
                message = f"{source.architecture} has no such setting; {did_you_mean(key, allowed)}"
                yield (f"{name}.config.{key}",), message


@RULES.rule("models")
def heads_divide_the_width(spec: Spec) -> Iterator[Finding]:
    """Attention heads share the hidden width evenly."""
    names = (("n_head", "n_embd"), ("num_attention_heads", "hidden_size"))
    for name, source in _sources(spec):
        for heads, width in names:
            count, size = source.config.get(heads), source.config.get(width)
            if isinstance(count, int) and isinstance(size, int) and (count < 1 or size % count):
                message = f"{width} {size} does not divide into {count} heads; change one of them"
                yield (f"{name}.config.{heads}",), message


@RULES.rule("models", "pretrain")
def pretrain_is_for_new_models(spec: Spec) -> Iterator[Finding]:
    """A finished base model is not pretrained again."""
    if spec.pretrain and spec.models.base.path:
        fix = "set pretrain: null, or give models.base an architecture"
        yield ("pretrain",), f"is for a model from scratch, and models.base has a path; {fix}"


@RULES.rule("models", "text.tokenizer", "data.task")
def new_model_needs_a_tokenizer(spec: Spec) -> Iterator[Finding]:
    """A model from scratch brings no tokenizer."""
    if spec.models.base.architecture and not spec.text.tokenizer and not spec.data.task:
        message = "a model from scratch has no tokenizer; add text.tokenizer: its folder"
        yield ("text.tokenizer", "models.base.architecture"), message


@RULES.rule("text.template")
def template_has_both_parts(spec: Spec) -> Iterator[Finding]:
    """A text template puts the response at its end."""
    template = spec.text.template
    if template is None or template == "chat" or template.endswith(".jinja"):
        return
    if "{prompt}" not in template or not template.endswith("{response}"):
        message = (
            f'expected a text with {{prompt}} that ends in {{response}}, got "{template}"; '
            "or chat, or a file that ends in .jinja"
        )
        yield ("text.template",), message


@RULES.rule("models.reward", "models.reward_trained", "reward.init")
def own_reward_backbone_starts_from_base(spec: Spec) -> Iterator[Finding]:
    """A reward model of another backbone cannot start from the SFT model."""
    if spec.models.reward and spec.models.reward_trained:
        message = "models.reward_trained is finished already; remove models.reward"
        yield ("models.reward",), message
    elif spec.models.reward and spec.reward.init != "base":
        message = (
            "models.reward has a backbone of its own, which cannot start from the SFT model; "
            "set reward.init: base"
        )
        yield ("reward.init", "models.reward"), message


@RULES.rule("text", "models")
def tokens_fit_the_model(spec: Spec) -> Iterator[Finding]:
    """Prompt and response fit the model's positions, when the configuration names them."""
    whole = spec.text.max_prompt + spec.text.max_response
    for name, source in _sources(spec):
        limit = _positions(source)
        if limit is not None and whole > limit:
            message = (
                f"max_prompt {spec.text.max_prompt} + max_response {spec.text.max_response} = "
                f"{whole} tokens, but {name} has {limit} positions; lower one of them"
            )
            yield ("text.max_response", "text.max_prompt", name), message


@RULES.rule("pretrain.length", "ppo.ptx.length", "ppo.init.length", "models.base")
def text_pieces_fit_the_model(spec: Spec) -> Iterator[Finding]:
    """Pieces of pretraining text fit the model's positions."""
    limit = _positions(spec.models.base)
    init = spec.ppo.init if spec.ppo else None
    lengths = {
        "ppo.init.length": init.length if init and init.pretrain_mix else 0,
        "pretrain.length": spec.pretrain.length if spec.pretrain else 0,
        "ppo.ptx.length": spec.ppo.ptx.length if spec.ppo and spec.ppo.ptx else 0,
    }
    for path, length in lengths.items():
        if limit is not None and length > limit:
            message = f"{length} tokens, but models.base has {limit} positions; lower it"
            yield (path,), message


def _positions(source: ModelSource) -> int | None:
    """Return the length limit of a model's configuration, or None when it does not say."""
    config = source.config
    if source.path:
        config = read_json(Path(source.path) / "config.json")
        if not isinstance(config, dict):
            return None
    for key in ("n_positions", "max_position_embeddings", "n_ctx"):
        if isinstance(config.get(key), int):
            return int(config[key])
    return None

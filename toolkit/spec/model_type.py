"""Can transformers build from a `model_type` what a spec wants? Told from its tables of names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from toolkit.spec.architectures import model_types, types_with
from toolkit.spec.nearest import nearest_name
from toolkit.spec.schema import Spec

Head = Literal["CAUSAL_LM", "SEQUENCE_CLASSIFICATION"]
"""What a model is loaded as: a policy, or a reward or value model."""

_BOTH: tuple[Head, ...] = ("CAUSAL_LM", "SEQUENCE_CLASSIFICATION")
_NAMES = {
    "CAUSAL_LM": "causal language model",
    "SEQUENCE_CLASSIFICATION": "sequence classifier with a linear head, as a reward model has",
}
_DECODES = {"xlm": "causal"}
"""The setting that makes a decoder of a type that is an encoder without; else `is_decoder`."""


def wanted_heads(spec: Spec, name: str) -> tuple[Head, ...]:
    """Return what the model under a key of a spec, such as "models.base", is loaded as."""
    own = spec.models.reward
    if name == "models.base":
        value = spec.ppo is not None and spec.ppo.value.init == "sft"
        scalar = value or (own is None and bool(spec.reward_rounds))
        return _BOTH if scalar else ("CAUSAL_LM",)
    new = name == "models.reward" and own is not None and not own.path
    return _BOTH if new else ("SEQUENCE_CLASSIFICATION",)


def type_fault(config: Mapping[str, Any], heads: Iterable[Head]) -> str | None:
    """Return what is wrong with the `model_type` of a configuration, and the fix; or None."""
    found, known = config.get("model_type"), model_types()
    if not isinstance(found, str):
        return (
            'has no model_type, expected one such as "gpt2"; copy the file again from where the '
            "model is from"
        )
    if known and found not in known:
        return (
            f'has model_type "{found}", expected one that the installed transformers knows, such '
            f'as "{nearest_name(found, known) or "gpt2"}"; correct it, or update transformers if '
            "the model is newer"
        )
    fault = head_fault(found, config, heads)
    return None if fault is None else f'has model_type "{found}", {fault}'


def head_fault(model_type: str, config: Mapping[str, Any], heads: Iterable[Head]) -> str | None:
    """Return what is wrong with a type that lacks one of these heads, and the fix; or None."""
    if model_type not in model_types():
        return None
    fix = "name a model of another type, such as gpt2, llama or qwen2"
    encoders = types_with("MASKED_LM") - types_with("SEQ_TO_SEQ_CAUSAL_LM")
    if model_type in encoders and not config.get(_DECODES.get(model_type, "is_decoder")):
        return f"an encoder, which reads a text in both directions; {fix}"
    for head in heads:
        fitting = _fitting(head)
        if fitting and model_type not in fitting:
            return f"a type that transformers has no {_NAMES[head]} of; {fix}"
    return None


def _fitting(head: Head) -> frozenset[str]:
    """Return the types that have a head as it is used here; empty where that is not known."""
    if head == "CAUSAL_LM":
        return types_with(head)
    return types_with(head) - types_with("MASKED_LM") - types_with("SEQ_TO_SEQ_CAUSAL_LM")

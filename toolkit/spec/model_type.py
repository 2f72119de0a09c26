"""Can transformers build from a `model_type` what a spec wants? Told from its tables of names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from toolkit.spec.architectures import model_types, types_with
from toolkit.spec.nearest import nearest_name

Head = Literal["CAUSAL_LM", "SEQUENCE_CLASSIFICATION"]
"""What a folder is loaded as: a policy, or a reward model."""

_NAMES = {
    "CAUSAL_LM": "causal language model",
    "SEQUENCE_CLASSIFICATION": "sequence classifier (a reward model is one)",
}
_DECODES = ("is_decoder", "is_encoder_decoder", "causal")
"""Settings that make a decoder of a type that is an encoder without."""


def type_fault(config: Mapping[str, Any], head: Head) -> str | None:
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
    fault = head_fault(found, config, head)
    return None if fault is None else f'has model_type "{found}", {fault}'


def head_fault(model_type: str, config: Mapping[str, Any], head: Head) -> str | None:
    """Return what a type is that cannot have a head, and the fix; or None."""
    fix = "name a model of another type, such as gpt2, llama or qwen2"
    if model_type in types_with("MASKED_LM") and not any(config.get(key) for key in _DECODES):
        return f"an encoder, which reads a text in both directions; {fix}"
    fitting = types_with(head)
    if fitting and model_type in model_types() - fitting:
        return f"a type that transformers has no {_NAMES[head]} of; {fix}"
    return None

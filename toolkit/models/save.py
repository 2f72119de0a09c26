"""Save models as Hugging Face folders that plain `Auto*` classes load."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from toolkit.data.tokenize import Text


def save_model(model: PreTrainedModel, folder: Path, text: Text) -> None:
    """Write weights (safetensors), config and tokenizer."""
    if model.can_generate() and text.pad_id >= text.vocab:
        model.generation_config.suppress_tokens = [text.pad_id]  # outside the softmax we train
    model.save_pretrained(folder)
    text.save(folder)

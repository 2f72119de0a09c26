"""Make or load models. Loading is strict: a missing or unexpected tensor is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from toolkit.data.tokenize import Text
from toolkit.models.activation import fuse_activations
from toolkit.models.layers import fuse_layers
from toolkit.models.trunk import fuse_trunk
from toolkit.spec.errors import StageFailed
from toolkit.spec.schema import ModelSource
from toolkit.training.random import Stream

# missing and unexpected tensors are checked here, strictly
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def load_base(
    source: ModelSource, text: Text, stream: Stream, device: str = "cpu"
) -> PreTrainedModel:
    """Load the base model's folder, or make it from `architecture` and `config`; dropout off.

    New weights are drawn on the CPU, so they are the same for every device.
    """
    if source.path is not None:
        return load_policy(Path(source.path), text, device)
    config = AutoConfig.for_model(
        source.architecture,
        **source.config,
        vocab_size=len(text.tokenizer),
        bos_token_id=text.eos_id,
        eos_token_id=text.eos_id,
        pad_token_id=text.pad_id,
    )
    stream.seed_torch("new weights")
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fuse_activations(model)
    fuse_layers(model)
    fuse_trunk(model)
    return model.eval().to(device)


def load_policy(folder: Path, text: Text, device: str = "cpu") -> PreTrainedModel:
    """Load a causal language model in fp32, dropout off, with a row for the padding token."""
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
    )
    _refuse_loose_ends(folder, info, allowed=())
    return _fit_to_text(model, text).to(device)


def load_scalar(folder: Path, text: Text, device: str = "cpu") -> PreTrainedModel:
    """Load a reward or value model in fp32, dropout off."""
    model, info = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
    )
    _refuse_loose_ends(folder, info, allowed=())
    _scalar_head(folder, model)
    return _fit_to_text(model, text).to(device)


def make_scalar(
    backbone: Path, text: Text, stream: Stream, device: str = "cpu", *, std: float | None = None
) -> PreTrainedModel:
    """Put a scalar head on a language model's trunk: normal around 0, no bias.

    Args:
        backbone: folder of the language model.
        text: the run's tokenizer.
        stream: where the weights are drawn from.
        device: where the model goes.
        std: standard deviation of the weights; None: 1/sqrt(width + 1) (detail 12).
    """
    stream.seed_torch("scalar head")
    model, info = AutoModelForSequenceClassification.from_pretrained(
        backbone,
        num_labels=1,
        dtype=torch.float32,
        output_loading_info=True,
        trust_remote_code=False,
    )
    _refuse_loose_ends(
        backbone, info, allowed=("score.weight", "lm_head.weight", "embed_out.weight")
    )
    head = _scalar_head(backbone, model)
    torch.nn.init.normal_(head.weight, std=std or (head.in_features + 1) ** -0.5)
    model.config.score_offset = 0.0
    return _fit_to_text(model, text).to(device)


def _scalar_head(folder: Path, model: PreTrainedModel) -> torch.nn.Linear:
    head = getattr(model, "score", None)
    if not isinstance(head, torch.nn.Linear) or "bias" in dict(head.named_parameters()):
        raise StageFailed(
            f"{folder}: {type(model).__name__} has no bias-free linear head named `score`; "
            "use an architecture whose sequence classifier has one, such as gpt2, llama or qwen2"
        )
    return head


def _fit_to_text(model: PreTrainedModel, text: Text) -> PreTrainedModel:
    """Give the padding token a row, fuse activation and layers, and turn dropout off."""
    if model.config.vocab_size < len(text.tokenizer):
        model.resize_token_embeddings(len(text.tokenizer), mean_resizing=False)
    model.config.pad_token_id = text.pad_id
    fuse_activations(model)
    fuse_layers(model)
    fuse_trunk(model)
    return model.eval()


def _refuse_loose_ends(folder: Path, info: dict[str, Any], allowed: tuple[str, ...]) -> None:
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = sorted(str(name) for name in info.get(kind, ()) if str(name) not in allowed)
        if names:
            raise StageFailed(
                f"{folder}: {kind.replace('_', ' ')} on loading: {', '.join(names[:5])}"
                f"{' ...' if len(names) > 5 else ''}; the folder does not hold the model its "
                f"config describes"
            )


_RESIDUAL = ("resid_dropout", "mlp.dropout", "post_attention_dropout", "post_mlp_dropout")


def set_residual_dropout(model: PreTrainedModel, share: float) -> int:
    """Set dropout on the residual branches only (C.1); return how many places it has.

    Some architectures keep a rate as a number of a module: `dropout` of a decoder layer acts on
    its residual branch, every other one elsewhere.
    """
    places = 0
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout):
            residual = name.endswith(_RESIDUAL)
            module.p = share if residual else 0.0
            places += residual
            continue
        for rate in [key for key, value in vars(module).items() if _is_rate(key, value)]:
            residual = rate == "dropout" and type(module).__name__.endswith("DecoderLayer")
            setattr(module, rate, share if residual else 0.0)
            places += residual
    return places


def _is_rate(name: str, value: object) -> bool:
    return "dropout" in name and isinstance(value, float)

"""What all competitors start from: initial weights in a Hugging Face folder, and prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from specs.compare.measure import Job, Measure, serve, write_lines
from toolkit.data.prepare import load_run_text, load_task
from toolkit.data.tasks.base import EOS, make_word_tokenizer
from toolkit.data.template import make_template
from toolkit.data.tokenize import Text, make_text
from toolkit.models.load import load_base
from toolkit.models.save import save_model
from toolkit.spec.load import load_spec
from toolkit.spec.schema import ModelSource
from toolkit.training.random import Stream

PROMPTS = 512
ACTIVATION = {"activation_function": "gelu_pytorch_tanh"}  # as in the preset tiny
CHEAP = {"n_layer": 2, "n_embd": 64, "n_head": 2}


def prepare(job: Job, measure: Measure) -> dict[str, Any]:
    """Write the base model of a task with stages."""
    del measure
    spec = load_spec(job["spec_file"], job["overrides"]).spec
    text = load_run_text(spec, load_task(spec))
    base = load_base(spec.models.base, text, Stream(spec.seed, "base"))
    save_base(base, text, Path(job["models"]["base"]))
    return {}


def prepare_fixed(job: Job, measure: Measure) -> dict[str, Any]:
    """Write base model, reward model and prompts of a task for speed; no answer ever ends early."""
    del measure
    text, seed = make_words(job["vocab"]), job["seed"]
    source = ModelSource(architecture="gpt2", config={**job["model"], **ACTIVATION})
    if job.get("large"):
        base = make_where_used(source, text, seed, job["device"])
    else:
        base = load_base(source, text, Stream(seed, "base"))
    forbid(base, [text.eos_id, text.pad_id])
    save_base(base, text, Path(job["models"]["base"]))
    make_cheap_reward(source, text, seed).save_pretrained(job["models"]["reward"])
    text.save(Path(job["models"]["reward"]))
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, text.eos_id, (PROMPTS, job["prompt"]), generator=draw).tolist()
    words = [{"prompt": " ".join(f"w{i}" for i in row)} for row in ids]
    write_lines(Path(job["prompts"]), words)
    return {}


def make_where_used(source: ModelSource, text: Text, seed: int, device: str) -> PreTrainedModel:
    """Draw the weights on the device itself: a billion of them take a CPU half a minute."""
    config = AutoConfig.for_model(
        source.architecture,
        **source.config,
        vocab_size=len(text.tokenizer),
        bos_token_id=text.eos_id,
        eos_token_id=text.eos_id,
        pad_token_id=text.pad_id,
    )
    Stream(seed, "base").seed_torch("new weights")
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def save_base(model: PreTrainedModel, text: Text, folder: Path) -> None:
    """Write model and tokenizer, without dropout and the note that keeps padding out of answers.

    The toolkit turns dropout on by the spec alone; TRL trains with what config.json says. TRL
    computes log-probs with padding in the softmax, so it has to sample with it too.
    """
    for name, value in model.config.to_dict().items():
        if isinstance(value, float) and name.endswith(("dropout", "pdrop")):
            setattr(model.config, name, 0.0)
    save_model(model, folder, text)
    note = folder / "generation_config.json"
    settings = json.loads(note.read_text())
    settings.pop("suppress_tokens", None)
    note.write_text(json.dumps(settings, indent=1))


def make_words(vocab: int) -> Text:
    """Make a tokenizer of `vocab` tokens, words w0, w1, ... and end-of-text; then padding."""
    tokenizer = make_word_tokenizer([f"w{i}" for i in range(vocab - 1)])
    return make_text(tokenizer, make_template("{prompt} {response}"), EOS)


@torch.no_grad()
def forbid(model: PreTrainedModel, tokens: list[int]) -> None:
    """Give `tokens` of a GPT-2 a logit of -40: one coordinate of the trunk's output is always 1."""
    head, norm = model.get_output_embeddings().weight, model.base_model.ln_f
    norm.weight[0], norm.bias[0] = 0.0, 1.0
    head[:, 0] = 0.0
    head[tokens] = 0.0
    head[tokens, 0] = -40.0


def make_cheap_reward(source: ModelSource, text: Text, seed: int) -> PreTrainedModel:
    """Make a small reward model with random weights."""
    config = AutoConfig.for_model(
        source.architecture,
        **{**source.config, **CHEAP},
        vocab_size=len(text.tokenizer),
        num_labels=1,
        bos_token_id=text.eos_id,
        eos_token_id=text.eos_id,
        pad_token_id=text.pad_id,
        score_offset=0.0,
    )
    Stream(seed, "cheap reward").seed_torch("new weights")
    return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).eval()


if __name__ == "__main__":
    serve({"prepare": prepare, "prepare_fixed": prepare_fixed})

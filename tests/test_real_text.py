"""Real text through every stage: the GPT-2 tokenizer, human instructions, a play; V = 50,257."""

import json

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from toolkit.pipeline.runner import run
from toolkit.spec.load import load_spec

V = 50257
SHORT = [
    "models.base.config.n_layer=1",
    "models.base.config.n_embd=32",
    "pretrain.steps=10",
    "sft.epochs=1",
    "collect.prompts=32",
    "ppo.episodes=64",
    "evaluate.prompts=16",
    "evaluate.perplexity_tokens=1024",
]


@pytest.fixture(scope="module")
def stages(realdata, root, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "real"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLHF_DATA", str(realdata))
        patch.chdir(root)
        run(load_spec(root / "specs" / "instructions.yaml", [f"out={out}", *SHORT]))
    return out / "stages"


@pytest.mark.realdata
def test_padding_lies_outside_the_softmax(stages):
    policy = AutoModelForCausalLM.from_pretrained(stages / "export" / "policy")
    tokenizer = AutoTokenizer.from_pretrained(stages / "export" / "policy")
    assert (policy.config.vocab_size, len(tokenizer)) == (V + 1, V + 1)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (V, V - 1)
    assert tokenizer("Hello world, InstructGPT!").input_ids == [15496, 995, 11, 20689, 38, 11571, 0]
    for line in (stages / "collect.1" / "samples.jsonl").read_text().splitlines():
        assert all(token < V for ids in json.loads(line)["responses_ids"] for token in ids)


@pytest.mark.realdata
def test_every_record_is_kept_or_counted(stages):
    counts = json.loads((stages / "data" / "counts.json").read_text())
    read = counts["demonstrations"]["read"]
    assert read == 175
    kept = sum(
        len((stages / "data" / f"demonstrations.{side}.jsonl").read_text().splitlines())
        for side in ("train", "valid")
    )
    dropped = sum(
        number
        for name, number in counts["demonstrations"].items()
        if isinstance(number, int) and name not in ("read", "kept", "train", "valid", "all")
    )
    assert kept + dropped == read, counts["demonstrations"]
    assert np.load(stages / "data" / "pretrain.train.npy").max() < V


@pytest.mark.realdata
def test_every_stage_ends_with_finite_figures(stages):
    evaluation = json.loads((stages / "evaluate" / "evaluation.json").read_text())
    figures = [value for model in evaluation["models"].values() for value in model.values()]
    assert len(figures) >= 15
    assert np.isfinite(figures).all()

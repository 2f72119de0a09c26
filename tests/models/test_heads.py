"""Log-probs, values and scores against plain transformers on the same folders."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tests.tiny import tiny_model, tiny_source
from toolkit.data.batches import collate, windows
from toolkit.models.heads import Policy, Scorer
from toolkit.models.load import (
    load_base,
    load_policy,
    load_scalar,
    make_scalar,
    set_residual_dropout,
)
from toolkit.models.output import LinearHead
from toolkit.models.save import save_model
from toolkit.spec.errors import StageFailed
from toolkit.spec.schema import Hardware, ModelSource
from toolkit.training.random import Stream

PROMPTS = [[0, 1, 8], [2, 8]]
RESPONSES = [[1, 9], [3, 4, 5, 9]]


@pytest.fixture
def batch(text):
    return collate(PROMPTS, RESPONSES, text.pad_id)


def scaled_model(text, architecture, config):
    """A model of some architecture whose logits are large enough for a soft cap to show."""
    if architecture == "gpt2":
        model = tiny_model(text)
    else:
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
        source = ModelSource(architecture=architecture, config={**sizes, **heads, **config})
        model = load_base(source, text, Stream(1, "base")).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20.0)
    return model


def by_hand(model, text, prompt, response):
    """Log-probs of one response, one sequence at a time, softmax over the first V ids."""
    ids = torch.tensor([prompt + response])
    logits = model(ids).logits[0, :, : text.vocab].double().log_softmax(-1)
    return [logits[len(prompt) - 1 + t, token].item() for t, token in enumerate(response)]


def test_logprobs_equal_one_sequence_at_a_time_without_the_padding_id(model, text, batch):
    logprobs, entropy = Policy(model, text.vocab, Hardware()).logprobs(batch)
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        expected = by_hand(model, text, prompt, response)
        assert logprobs[row, : len(response)].tolist() == pytest.approx(expected, abs=1e-5)
    assert torch.all(logprobs[0, 2:] == 0)
    assert torch.all(entropy[0, :2] > 0)


def test_micro_batches_give_the_same_logprobs(model, text, batch):
    whole, _ = Policy(model, text.vocab, Hardware()).logprobs(batch)
    parts, _ = Policy(model, text.vocab, Hardware(micro_batch=1)).logprobs(batch)
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "architecture"),
    [
        ({}, "gpt2"),
        ({}, "llama"),
        ({"final_logit_softcapping": 3.0}, "gemma2"),
        ({"logit_scale": 0.25}, "cohere"),
        ({"logits_scaling": 5.0}, "granite"),
    ],
)
def test_the_fused_head_equals_the_models_own_logits(text, batch, change, architecture):
    model = scaled_model(text, architecture, change)
    found = {}
    for fused in (True, False):
        policy = Policy(model, text.vocab, Hardware(fused_head=fused), temperature=0.7)
        assert isinstance(policy.output, LinearHead) == fused
        logprobs, entropy = policy.logprobs(batch)
        model.zero_grad()
        loss = policy.backward_text_loss(batch, batch.tokens)
        weight = model.get_output_embeddings().weight
        first, zero = logprobs[batch.mask] + 0.1, torch.linspace(-1, 1, batch.tokens)
        objective, _ = policy.backward_policy_loss(batch, first, zero, cliprange=0.2)
        table = model.get_input_embeddings().weight
        found[fused] = (logprobs, entropy, loss, objective, weight.grad, table.grad)
    for ours, plain in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(ours, plain, rtol=2e-5, atol=2e-6)


def test_a_head_that_is_no_matrix_is_refused_with_what_was_looked_for(model, text):
    model.lm_head = torch.nn.Sequential(torch.nn.Linear(16, 16), model.lm_head)
    with pytest.raises(StageFailed, match=r"get_output_embeddings.*final_logit_softcapping.*false"):
        Policy(model, text.vocab, Hardware())
    assert Policy(model, text.vocab, Hardware(fused_head=False)).output is not None


def test_a_head_with_an_unknown_factor_is_refused(model, text):
    plain = model.forward

    def doubled(*args, **kwargs):
        out = plain(*args, **kwargs)
        out.logits = out.logits * 2
        return out

    model.forward = doubled
    with pytest.raises(StageFailed, match="no linear head found in GPT2LMHeadModel"):
        Policy(model, text.vocab, Hardware())


def test_windows_count_every_token_after_the_first(model, text):
    stream = torch.arange(9, dtype=torch.int32)
    logprobs, _ = Policy(model, text.vocab, Hardware()).logprobs(windows(stream, [2], 4))
    expected = by_hand(model, text, [2], [3, 4, 5, 6])
    assert logprobs[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_saved_scores_equal_plain_transformers_less_the_offset(model, text, batch, tmp_path):
    save_model(model, tmp_path / "lm", text)
    scalar = make_scalar(tmp_path / "lm", text, Stream(1, "head"))
    scalar.config.score_offset = 0.75
    save_model(scalar, tmp_path / "rm", text)
    ours = Scorer(load_scalar(tmp_path / "rm", text), Hardware()).scores(batch)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    theirs = plain(batch.ids, attention_mask=(batch.ids != text.pad_id).long()).logits[:, 0]
    torch.testing.assert_close(ours, theirs.detach() - 0.75, rtol=1e-5, atol=1e-6)


def test_values_are_read_where_each_token_is_predicted(model, text, batch, tmp_path):
    save_model(model, tmp_path / "lm", text)
    scorer = Scorer(make_scalar(tmp_path / "lm", text, Stream(1, "head")), Hardware())
    values = scorer.values(batch)
    prefix = collate([PROMPTS[1][:1]], [[*PROMPTS[1][1:], *RESPONSES[1][:2]]], text.pad_id)
    assert values[1, 2].item() == pytest.approx(scorer.scores(prefix).item(), abs=1e-5)
    assert torch.all(values[0, 2:] == 0)


def test_the_head_starts_as_the_paper_says(model, text, tmp_path):
    save_model(model, tmp_path / "lm", text)
    weight = make_scalar(tmp_path / "lm", text, Stream(1, "head")).score.weight
    assert weight.std().item() == pytest.approx((32 + 1) ** -0.5, rel=0.35)
    again = make_scalar(tmp_path / "lm", text, Stream(1, "head")).score.weight
    assert torch.equal(weight, again)
    small = make_scalar(tmp_path / "lm", text, Stream(1, "head"), std=0.001).score.weight
    torch.testing.assert_close(small, weight * 0.001 * (32 + 1) ** 0.5)


def test_a_policy_folder_loads_with_plain_transformers(model, text, batch, tmp_path):
    save_model(model, tmp_path / "lm", text)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "lm").eval()
    ours, _ = Policy(load_policy(tmp_path / "lm", text), text.vocab, Hardware()).logprobs(batch)
    expected = by_hand(plain, text, PROMPTS[1], RESPONSES[1])
    assert ours[1].tolist() == pytest.approx(expected, abs=1e-5)
    assert plain.generation_config.suppress_tokens == [text.pad_id]


def test_a_missing_tensor_is_an_error_that_names_it(model, text, tmp_path):
    from safetensors.torch import load_file, save_file

    save_model(model, tmp_path / "lm", text)
    path = tmp_path / "lm" / "model.safetensors"
    tensors = load_file(path)
    del tensors["transformer.ln_f.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(StageFailed, match=r"missing keys.*ln_f\.weight"):
        load_policy(tmp_path / "lm", text)


def test_a_new_model_and_a_loaded_one_have_dropout_off(text, tmp_path):
    new = load_base(tiny_source(resid_pdrop=0.5), text, Stream(1, "base"))
    save_model(new, tmp_path / "lm", text)
    assert not new.training
    assert not load_policy(tmp_path / "lm", text).training


@pytest.mark.parametrize(
    ("architecture", "config", "places"),
    [
        ("gpt2", {"n_embd": 32, "n_layer": 1, "n_head": 2, "resid_pdrop": 0.5}, 2),
        (
            "opt",
            {
                "hidden_size": 32,
                "word_embed_proj_dim": 32,
                "ffn_dim": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "dropout": 0.5,
                "attention_dropout": 0.5,
            },
            1,
        ),
        (
            "gpt_neox",
            {
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "hidden_dropout": 0.5,
                "attention_dropout": 0.5,
            },
            2,
        ),
    ],
)
def test_dropout_acts_on_residual_branches_and_zero_turns_all_of_it_off(
    text, batch, architecture, config, places
):
    model = load_base(
        ModelSource(architecture=architecture, config=config), text, Stream(1, "base")
    )
    expected = model(batch.ids).logits
    assert set_residual_dropout(model, 0.0) == places
    assert torch.equal(model.train()(batch.ids).logits, expected)
    set_residual_dropout(model, 0.5)
    assert not torch.equal(model(batch.ids).logits, expected)


def test_recomputed_activations_give_the_same_gradient(text, batch):
    grads, calls = [], []
    for checkpointing in (False, True):
        model = tiny_model(text, resid_pdrop=0.5, attn_pdrop=0.5)
        model.transformer.h[0].ln_1.register_forward_hook(lambda *_: calls.append(1))
        policy = Policy(model, text.vocab, Hardware(gradient_checkpointing=checkpointing))
        calls.clear()
        policy.backward_text_loss(batch, 1)
        assert len(calls) == 1 + checkpointing
        grads.append(model.transformer.h[0].attn.c_attn.weight.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-5, atol=1e-7)


def test_recomputed_activations_are_the_same_in_bf16(text, batch):
    grads = []
    for checkpointing in (False, True):
        model = tiny_model(text)
        hardware = Hardware(precision="bf16", gradient_checkpointing=checkpointing)
        Policy(model, text.vocab, hardware).backward_text_loss(batch, 1)
        grads.append(model.transformer.h[0].attn.c_attn.weight.grad)
    assert torch.equal(*grads)


def test_bf16_is_for_compute_only(model, text, batch):
    policy = Policy(model, text.vocab, Hardware(precision="bf16"))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    logprobs, _ = policy.logprobs(batch)
    assert logprobs.dtype == torch.float32
    exact, _ = Policy(model, text.vocab, Hardware()).logprobs(batch)
    assert 1e-5 < (logprobs - exact).abs().max() < 0.05

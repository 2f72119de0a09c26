"""Gradients of embedding and head: the same as autograd's, with no second table."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.tiny import tiny_model, tiny_text
from toolkit.data.batches import collate
from toolkit.data.tasks.base import EOS, make_word_tokenizer
from toolkit.data.template import make_template
from toolkit.data.tokenize import make_text
from toolkit.models import tables
from toolkit.models.heads import Policy, Scorer
from toolkit.models.load import load_base, make_scalar
from toolkit.models.save import save_model
from toolkit.models.tables import add_looked_up_rows
from toolkit.spec.schema import Hardware, ModelSource, Optimizer
from toolkit.training import joined
from toolkit.training.ema import make_ema
from toolkit.training.optim import Updater
from toolkit.training.random import Stream

PROMPTS = [[0, 1, 8], [2, 8], [2, 2, 2]]
RESPONSES = [[1, 9], [3, 4, 5, 9], [2, 2]]


@pytest.fixture(autouse=True)
def no_table_is_small(monkeypatch):
    monkeypatch.setattr(tables, "_FEW", 0)


@pytest.fixture(scope="module")
def text():
    return tiny_text()


@pytest.fixture
def batch(text):
    return collate(PROMPTS, RESPONSES, text.pad_id)


def wide_text():
    """A vocabulary so large that no other weight of a narrow model has as many numbers."""
    words = make_word_tokenizer([f"w{i}" for i in range(999)])
    return make_text(words, make_template("{prompt} {response}"), EOS)


def untied_llama(text):
    """Head and embedding apart, and an embedding that leaves its padding row out."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "tie_word_embeddings": False}
    source = ModelSource(architecture="llama", config={**sizes, **heads})
    return load_base(source, text, Stream(1, "base")).eval()


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def accumulate(make, text, batch, **hardware):
    """The gradients of a policy objective and of the text's loss, one after the other."""
    model = make(text)
    policy = Policy(model, text.vocab, Hardware(**hardware))
    draw = torch.Generator().manual_seed(1)
    for _, micro in policy.micro(batch):
        advantages = torch.randn(micro.tokens, generator=draw)
        old = torch.full((micro.tokens,), -2.0)
        policy.backward_policy_loss(micro, old, advantages, cliprange=0.2, denominator=batch.tokens)
    for _, micro in policy.micro(batch):
        policy.backward_text_loss(micro, batch.tokens / 27.8)
    return gradients(model)


@pytest.mark.parametrize("few", [0, 1 << 18])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("micro", [None, 1])
@pytest.mark.parametrize("make", [tiny_model, untied_llama])
def test_the_gradients_are_autograds_tied_and_untied(
    text, batch, make, micro, checkpointing, few, monkeypatch
):
    monkeypatch.setattr(tables, "_FEW", few)
    options = {"micro_batch": micro, "gradient_checkpointing": checkpointing}
    ours = accumulate(make, text, batch, **options)
    plain = accumulate(make, text, batch, fused_head=False, **options)
    assert ours.keys() == plain.keys()
    for name, grad in ours.items():
        assert grad.layout == torch.strided
        scale = plain[name].abs().max()
        assert (grad - plain[name]).abs().max() <= 1e-5 * scale + 1e-7, name


def test_the_gradients_of_a_scalar_model_are_autograds(text, batch, tmp_path):
    save_model(tiny_model(text), tmp_path / "lm", text)
    found = []
    for sparse in (True, False):
        scorer = Scorer(make_scalar(tmp_path / "lm", text, Stream(1, "head")), Hardware())
        table = scorer.model.get_input_embeddings()
        assert table.sparse
        table.sparse = sparse
        for _ in range(2):
            scorer.values_of(batch).square().sum().backward()
        found.append(gradients(scorer.model))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


def test_a_graph_made_before_the_gradients_are_cleared_still_ends_dense(text, batch, tmp_path):
    save_model(tiny_model(text), tmp_path / "lm", text)
    scorer = Scorer(make_scalar(tmp_path / "lm", text, Stream(1, "head")), Hardware())
    loss = scorer.values_of(batch).square().sum()
    scorer.model.zero_grad(set_to_none=True)
    loss.backward()
    assert scorer.model.get_input_embeddings().weight.grad.layout == torch.strided


def test_a_table_gets_one_gradient_in_place(text, batch):
    model = tiny_model(text)
    policy = Policy(model, text.vocab, Hardware(micro_batch=1))
    weight, places = model.get_output_embeddings().weight, set()
    for _, micro in policy.micro(batch):
        policy.backward_text_loss(micro, batch.tokens)
        places.add(weight.grad.data_ptr())
    assert len(places) == 1


def test_a_frozen_head_and_an_average_stay_as_they_are(text, batch):
    model = tiny_model(text)
    policy = Policy(model, text.vocab, Hardware())
    average = make_ema(model, 0.5)
    updater = Updater(model, Optimizer(), 1e-3)
    before = model.get_input_embeddings().weight.detach().clone()
    policy.backward_text_loss(batch, batch.tokens)
    updater.step(lambda norm: None)
    average.update_parameters(model)
    after = model.get_input_embeddings().weight.detach()
    middle = average.module.get_input_embeddings().weight
    torch.testing.assert_close(middle, (before + after) / 2)
    assert not torch.equal(before, after)
    model.get_input_embeddings().weight.requires_grad_(False)
    policy.backward_text_loss(batch, batch.tokens)
    assert not model.get_input_embeddings().weight.grad.any()  # zeros since the step


def test_a_small_table_is_left_as_it_is(text, monkeypatch):
    for few, sparse in ((1 << 18, False), (0, True)):
        monkeypatch.setattr(tables, "_FEW", few)
        model = tiny_model(text)
        add_looked_up_rows(model)
        assert model.get_input_embeddings().sparse is sparse


def test_twice_prepared_is_prepared_once(text):
    model = tiny_model(text)
    add_looked_up_rows(model)
    add_looked_up_rows(model)
    assert len(model.get_input_embeddings()._forward_hooks) == 1


class Tables(TorchDispatchMode):
    """Remembers which calls return new memory of a whole table's size."""

    def __init__(self, size):
        super().__init__()
        self.size, self.calls = size, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in args if is_dense(x)}
        for x in out if isinstance(out, (tuple, list)) else (out,):
            large = is_dense(x) and x.numel() >= self.size
            if large and x.untyped_storage().data_ptr() not in given:
                self.calls.append(func.__name__)
        return out


def is_dense(x):
    return isinstance(x, torch.Tensor) and x.layout == torch.strided


def tables_of_a_step(model, text, batch, **hardware):
    """Calls that made a table in a PPO step of two micro-batches."""
    policy = Policy(model, text.vocab, Hardware(micro_batch=2, **hardware))
    old = torch.full((batch.tokens,), -2.0)
    with Tables(text.vocab * model.get_input_embeddings().embedding_dim) as seen:
        for _, micro in policy.micro(batch):
            n = micro.tokens
            policy.backward_policy_loss(micro, old[:n], old[:n], cliprange=0.2, denominator=n)
        updater = Updater(model, Optimizer(), 1e-3)
        seen.calls.append("then")
        updater.step(lambda norm: None)
    return seen.calls


def test_a_ppo_step_makes_a_gradient_and_two_moments_and_no_other_table(batch, monkeypatch):
    monkeypatch.setattr(joined, "_MOST", 0)  # as with a large model
    text = wide_text()
    narrow = {"n_embd": 4, "n_head": 1, "n_layer": 1}
    calls = tables_of_a_step(tiny_model(text, **narrow), text, batch)
    zeros = "zeros_like.default"
    assert calls == [zeros, "then", zeros, zeros]
    plain = tables_of_a_step(tiny_model(text, **narrow), text, batch, fused_head=False)
    assert "embedding_dense_backward.default" in plain


@pytest.mark.parametrize("make", [tiny_model, untied_llama])
def test_log_probs_of_whole_answers_have_autograds_gradients(text, batch, make):
    found = []
    for fused in (True, False):
        model = make(text)
        policy = Policy(model, text.vocab, Hardware(fused_head=fused))
        for _ in range(2):
            policy.answer_logprobs(batch).square().sum().backward()
        found.append(gradients(model))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)

"""The last layer's feed-forward for the positions that are read alone: the same numbers."""

import copy
import pickle

import pytest
import torch

from tests.tiny import tiny_model
from toolkit.data.batches import collate, windows
from toolkit.models.heads import Policy, Scorer
from toolkit.models.last_layer import LastLayer, find_last_layer
from toolkit.models.load import load_base, make_scalar
from toolkit.models.save import save_model
from toolkit.rollout import sample_answers
from toolkit.spec.schema import Hardware, ModelSource, Sampling
from toolkit.training.random import Stream

PROMPTS = [[0, 1, 8], [2, 8], [5, 4, 3, 8]]
RESPONSES = [[1, 9], [3, 4, 5, 9], [6, 9]]
SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2,
}  # fmt: skip
PLAIN = Hardware(fused_head=False)
ABLE = ["gpt2", "llama", "gpt_neox", "gemma2", "qwen2", "phi", "gptj", "stablelm"]


@pytest.fixture
def batch(text):
    return collate(PROMPTS, RESPONSES, text.pad_id)


def make(architecture, text):
    if architecture == "gpt2":
        return tiny_model(text)
    config = SIZES | {"rotary_dim": 8} if architecture == "gptj" else SIZES
    if architecture == "bloom":
        config = {"hidden_size": 32, "n_layer": 2, "n_head": 2}
    source = ModelSource(architecture=architecture, config=config)
    return load_base(source, text, Stream(1, "base")).eval()


def count_rows(module, seen):
    return module.register_forward_hook(lambda _, given, out: seen.append(given[0].shape))


def mlp_of(model):
    return model.transformer.h[-1].mlp


def passes(policy, batch):
    """Log-probs, entropies and the gradients of both losses."""
    policy.model.zero_grad()
    logprobs, entropy = policy.logprobs(batch)
    policy.backward_text_loss(batch, batch.tokens)
    advantages = torch.linspace(-1, 1, batch.tokens)
    policy.backward_policy_loss(batch, logprobs[batch.mask] + 0.1, advantages, cliprange=0.2)
    grads = {name: p.grad.clone() for name, p in policy.model.named_parameters()}
    return logprobs, entropy, grads


@pytest.mark.parametrize("architecture", ABLE)
def test_losses_and_gradients_stay(text, batch, architecture):
    model = make(architecture, text)
    policy = Policy(model, text.vocab, Hardware())
    assert policy.output.last is not None
    ours = passes(policy, batch)
    plain = passes(Policy(model, text.vocab, PLAIN), batch)
    torch.testing.assert_close(ours[:2], plain[:2], rtol=2e-5, atol=2e-6)
    for name, grad in plain[2].items():
        torch.testing.assert_close(ours[2][name], grad, rtol=1e-3, atol=2e-6, msg=name)


def test_only_what_is_read_is_computed(model, text, batch):
    policy = Policy(model, text.vocab, Hardware())
    last, first = [], []
    count_rows(mlp_of(model).c_fc, last)
    count_rows(model.transformer.h[0].mlp.c_fc, first)
    passes(policy, batch)
    assert [shape.numel() // 32 for shape in last] == [batch.tokens] * 3
    assert [shape.numel() // 32 for shape in first] == [batch.inputs.numel()] * 3


def test_where_nearly_all_is_read_all_is_computed(model, text):
    policy = Policy(model, text.vocab, Hardware())
    stream = torch.arange(40) % text.vocab
    batch = windows(stream, [0, 7], 12)
    seen = []
    count_rows(mlp_of(model).c_fc, seen)
    policy.logprobs(batch)
    assert [shape[:2] for shape in seen] == [(2, 12)]


def test_scores_and_values_stay(text, batch, tmp_path):
    save_model(tiny_model(text), tmp_path, text)
    model = make_scalar(tmp_path, text, Stream(2, "head"))
    ours, plain = Scorer(model, Hardware()), Scorer(model, PLAIN)
    seen = []
    count_rows(mlp_of(model).c_fc, seen)
    torch.testing.assert_close(ours.scores(batch), plain.scores(batch))
    torch.testing.assert_close(ours.values(batch), plain.values(batch))
    rows = [shape.numel() // 32 for shape in seen]
    assert rows == [len(batch), batch.ids.numel(), batch.tokens, batch.inputs.numel()]


def test_of_a_prompt_only_its_end_is_computed(model, text):
    """The others are read for their keys and values, which come before."""
    prompts = [[0, 1, 8], [2, 8], [0, 1, 8]]
    draws = (Stream(3, "test"), "answers", [0, 1, 2])
    found, read = [], []
    for hardware in (Hardware(), PLAIN):
        policy, seen = Policy(model, text.vocab, hardware), []
        counting = count_rows(mlp_of(model).c_fc, seen)
        settings = {"sampling": Sampling(), "draws": draws, "max_response": 4}
        found.append(sample_answers(policy, text, prompts, **settings))
        read.append([shape.numel() // 32 for shape in seen[:2]])
        counting.remove()
    assert read == [[2, 3], [6, 3]]  # two prompts, padded to three tokens, then three answers
    assert found[0].ids == found[1].ids
    torch.testing.assert_close(found[0].logprobs, found[1].logprobs, rtol=1e-5, atol=1e-6)


def test_recomputed_activations_and_the_models_own_logits_leave_it_out(model, text):
    for hardware in (PLAIN, Hardware(gradient_checkpointing=True)):
        assert getattr(Policy(model, text.vocab, hardware).output, "last", None) is None
        assert Scorer(model, hardware).last is None
    assert not mlp_of(model)._forward_pre_hooks


def test_two_policies_of_a_model_share_the_hooks_and_a_copy_has_its_own(model, text, batch):
    first = Policy(model, text.vocab, Hardware())
    second = Policy(model, text.vocab, Hardware())
    assert first.output.last is second.output.last
    assert len(mlp_of(model)._forward_pre_hooks) == 1
    copied = Policy(copy.deepcopy(model), text.vocab, Hardware())
    assert copied.output.last is not first.output.last
    assert torch.equal(copied.logprobs(batch)[0], first.logprobs(batch)[0])


def test_a_pickled_model_has_hooks_of_its_own(model, text, batch):
    first = Policy(model, text.vocab, Hardware())
    again = pickle.loads(pickle.dumps(model))
    second = Policy(again, text.vocab, Hardware())
    assert second.output.last is not first.output.last
    assert len(mlp_of(again)._forward_pre_hooks) == 1
    assert torch.equal(second.logprobs(batch)[0], first.logprobs(batch)[0])


def test_a_pass_before_anothers_backward_pass_leaves_its_gradients(model, text, batch):
    policy = Policy(model, text.vocab, Hardware())
    grads = []
    for between in (False, True):
        model.zero_grad()
        loss = policy.answer_logprobs(batch).sum()
        if between:
            policy.logprobs(collate([[1, 2], [3]], [[3], [4, 9]], text.pad_id))
        loss.backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert all(map(torch.equal, *grads))


def test_products_in_bf16_stay(model, text, batch):
    ours = passes(Policy(model, text.vocab, Hardware(precision="bf16")), batch)
    plain = passes(Policy(model, text.vocab, Hardware(precision="bf16", fused_head=False)), batch)
    torch.testing.assert_close(ours[:2], plain[:2], rtol=2e-5, atol=2e-6)
    for name, grad in plain[2].items():
        torch.testing.assert_close(ours[2][name], grad, rtol=1e-3, atol=2e-6, msg=name)


def test_outside_a_pass_of_ours_the_model_is_as_it_was(model, text, batch):
    before = model(batch.ids).logits
    Policy(model, text.vocab, Hardware()).logprobs(batch)
    assert torch.equal(model(batch.ids).logits, before)
    with pytest.raises(ZeroDivisionError), find_last_layer(model).only(torch.tensor([0]), 9):
        raise ZeroDivisionError
    assert torch.equal(model(batch.ids).logits, before)


@pytest.mark.parametrize("architecture", ["bloom", "opt"])
def test_one_that_wants_more_than_a_position_or_has_another_name_is_left(text, batch, architecture):
    model = make(architecture, text)
    assert find_last_layer(model) is None
    policy = Policy(model, text.vocab, Hardware())
    plain = Policy(model, text.vocab, PLAIN)
    torch.testing.assert_close(policy.logprobs(batch)[0], plain.logprobs(batch)[0])


def test_where_nothing_is_read_all_is_computed():
    """Some modules fail on no positions, on which `view` cannot infer a size."""
    mlp = torch.nn.Linear(3, 3)
    last = LastLayer(mlp)
    seen = []
    count_rows(mlp, seen)
    with last.only(torch.tensor([], dtype=torch.int64), 8):
        mlp(torch.randn(2, 4, 3))
    assert seen == [(2, 4, 3)]


def test_a_pass_within_a_pass_leaves_it_as_it_was():
    mlp = torch.nn.Linear(3, 3)
    last = LastLayer(mlp)
    x = torch.randn(2, 4, 3)
    with last.only(torch.tensor([1, 6]), 8):
        with last.only(torch.tensor([0]), 8):
            inner = mlp(x)
        outer = mlp(x)
    for y, rows in ((inner, [0]), (outer, [1, 6])):
        assert y.flatten(0, 1).abs().sum(1).nonzero().flatten().tolist() == rows


def test_rows_that_are_not_read_get_no_gradient():
    mlp = torch.nn.Linear(3, 3)
    last = LastLayer(mlp)
    x = torch.randn(2, 4, 3, requires_grad=True)
    with last.only(torch.tensor([1, 6]), 8):
        y = mlp(x)
    assert y.shape == x.shape
    assert y.flatten(0, 1).abs().sum(1).nonzero().flatten().tolist() == [1, 6]
    y.sum().backward()
    assert x.grad.flatten(0, 1).abs().sum(1).nonzero().flatten().tolist() == [1, 6]
    assert torch.equal(mlp.bias.grad, torch.full((3,), 2.0))

"""Sampling: keyed by sequence, whatever shares its batch; what it keeps is what a pass gives."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.cache_utils import DynamicCache
from transformers.models.gpt2.modeling_gpt2 import GPT2Model

import rlhf_kernels as rk
from tests.tiny import tiny_model, tiny_text
from toolkit import rollout
from toolkit.data.batches import collate
from toolkit.models import cache
from toolkit.models.cache import make_cache
from toolkit.models.heads import Policy
from toolkit.models.load import load_base
from toolkit.models.trunk import FusedTrunk
from toolkit.rollout import sample_answers
from toolkit.spec.errors import StageFailed
from toolkit.spec.schema import Hardware, ModelSource, Sampling
from toolkit.training.random import Stream


@pytest.fixture(scope="module")
def text():
    return tiny_text()


@pytest.fixture(scope="module")
def policy(text):
    return Policy(tiny_model(text, initializer_range=0.4), text.vocab, Hardware())


def answer(policy, text, prompts, rows, sampling=None, most=6):
    return sample_answers(
        policy,
        text,
        prompts,
        sampling=sampling or Sampling(),
        draws=(Stream(1, "ppo", 1), "answer", rows),
        max_response=most,
    )


def test_an_answer_does_not_depend_on_the_batch_it_sits_in(policy, text):
    prompts = [[i % 8, (3 * i) % 8, 8] for i in range(12)]
    together = answer(policy, text, prompts, range(12))
    alone = [answer(policy, text, [prompts[i]], [i]).ids[0] for i in range(12)]
    assert together.ids == alone
    assert len({tuple(ids) for ids in together.ids}) > 1


def test_left_padding_changes_nothing(policy, text):
    short, long = [2, 8], [1, 2, 3, 4, 5, 8]
    together = answer(policy, text, [short, long], [0, 1])
    assert together.ids[0] == answer(policy, text, [short], [0]).ids[0]


def test_an_answer_ends_with_end_of_text_or_is_unfinished(policy, text):
    out = answer(policy, text, [[i % 8, 8] for i in range(64)], range(64), most=4)
    for ids, finished in zip(out.ids, out.finished, strict=True):
        assert (ids[-1] == text.eos_id) == finished
        assert text.eos_id not in ids[:-1]
        assert finished or len(ids) == 4
    assert any(out.finished)
    assert not all(out.finished)


def test_padding_is_never_drawn(policy, text):
    out = answer(policy, text, [[i % 8, 8] for i in range(64)], range(64), most=8)
    assert all(index < text.vocab for ids in out.ids for index in ids)


def test_the_order_of_the_batch_changes_nothing(policy, text):
    prompts = [[i % 8] * (1 + i % 5) + [8] for i in range(16)]
    there = answer(policy, text, prompts, range(16))
    back = answer(policy, text, prompts[::-1], range(16)[::-1])
    assert there.ids == back.ids[::-1]
    assert there.finished == back.finished[::-1]
    torch.testing.assert_close(there.logprobs, back.logprobs.flip(0))


def test_answers_of_one_prompt_share_its_reading(policy, text, monkeypatch):
    """The same tokens as one by one, and each prompt read once."""
    prompts = [[1, 2, 8]] * 4 + [[3, 8]] + [[5, 6, 7, 8]] * 2 + [[1, 2, 8]]
    alone = [answer(policy, text, [p], [i]).ids[0] for i, p in enumerate(prompts)]
    read = watch_reading(monkeypatch)
    together = answer(policy, text, prompts, range(8))
    assert together.ids == alone
    assert len({tuple(ids) for ids in together.ids[:4]}) > 1
    assert read[0] == (3, 4)
    assert read[1][0] <= 8


def watch_reading(monkeypatch):
    """Return the list to which every reading of the model adds its shape."""
    shapes, real = [], rollout._Reader.read

    def read(self, ids):
        shapes.append(tuple(ids.shape))
        return real(self, ids)

    monkeypatch.setattr(rollout._Reader, "read", read)
    return shapes


def test_ended_sequences_leave_and_nothing_changes(policy, text, monkeypatch):
    prompts = [[i % 8] * (1 + i % 3) + [8] for i in range(32)]
    read = watch_reading(monkeypatch)
    out = answer(policy, text, prompts, range(32), most=16)
    sizes = [shape[0] for shape in read[1:]]
    assert sizes[-1] < sizes[0]
    assert sizes == sorted(sizes, reverse=True)
    monkeypatch.setattr(rollout, "_LEAVE", 0.0)
    read.clear()
    stayed = answer(policy, text, prompts, range(32), most=16)
    assert {shape[0] for shape in read[1:]} == {32}
    assert stayed.ids == out.ids
    torch.testing.assert_close(stayed.logprobs, out.logprobs)
    torch.testing.assert_close(stayed.entropy, out.entropy)


def test_the_last_sequence_ends_the_batch(policy, text, monkeypatch):
    """Nothing is computed after the last end-of-text."""
    read = watch_reading(monkeypatch)
    out = answer(policy, text, [[1, 8]] * 8, range(8), most=24)
    longest = max(len(ids) for ids in out.ids)
    assert all(out.finished)
    assert len(read) == longest < 24


def test_a_layer_with_room_holds_what_a_growing_one_holds(text):
    model = tiny_model(text)
    ours, theirs = make_cache(model, 8), DynamicCache(config=model.config)
    assert all(type(layer) is cache.RoomyLayer for layer in ours.layers)
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    for part in (ids, ids[:, :1], ids[:, 1:2]):
        for held in (ours, theirs):
            model(part, past_key_values=held, use_cache=True)
    for held in (ours, theirs):
        held.reorder_cache(torch.tensor([1, 0, 1]))
    for mine, other in zip(ours.layers, theirs.layers, strict=True):
        assert mine.get_seq_length() == 5
        assert torch.equal(mine.keys, other.keys)
        assert torch.equal(mine.values, other.values)


def small(architecture, **changes):
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "initializer_range": 0.3,
    }
    if architecture == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}
    if architecture == "bloom":
        sizes = {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}
    return ModelSource(architecture=architecture, config=sizes | changes)


MODELS = {
    "gpt2": small("gpt2"),
    "llama, grouped heads": small("llama", num_key_value_heads=2),
    "mistral, sliding window": small("mistral", num_key_value_heads=2, sliding_window=4),
    "gemma2, sliding and soft-capped": small(
        "gemma2", num_key_value_heads=2, head_dim=8, sliding_window=4
    ),
    "bloom, ALiBi": small("bloom"),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_kept_logprobs_are_those_of_a_pass_over_the_answers(text, name, temperature):
    """With left padding, shared prompts and sequences that leave; the whole softmax is meant."""
    model = load_base(MODELS[name], text, Stream(1, "base"))
    policy = Policy(model, text.vocab, Hardware(fused_head=False), temperature)
    prompts = [[i % 8] * (1 + i % 6) + [8] for i in range(12)] * 2
    sampling = Sampling(temperature=temperature, top_k=6)
    out = answer(policy, text, prompts, range(24), sampling, most=12)
    batch = collate(prompts, out.ids, text.pad_id)
    logprobs, entropy = policy.logprobs(batch)
    assert out.logprobs.shape == batch.mask.shape
    assert (out.logprobs - logprobs).abs().max() < 1e-4
    assert (out.entropy - entropy).abs().max() < 1e-4
    assert not out.logprobs[~batch.mask].any()
    assert len({len(ids) for ids in out.ids}) > 1


def test_logits_that_are_not_numbers_are_refused_by_name(text):
    model = tiny_model(text)
    model.transformer.wte.weight.data.fill_(float("nan"))
    with pytest.raises(StageFailed, match="logits are NaN or infinite"):
        answer(Policy(model, text.vocab, Hardware(fused_head=False)), text, [[1, 8]], [0])


def test_draws_are_those_of_the_kernel_keyed_by_sequence_and_position(policy, text):
    """The first token, from the logits of a plain pass."""
    prompts, rows = [[i % 8, 8] for i in range(8)], range(40, 48)
    out = answer(policy, text, prompts, rows, most=1)
    logits = policy.model(torch.tensor(prompts)).logits[:, -1, : text.vocab]
    seed = Stream(1, "ppo", 1).seed64("answer")
    drawn = rk.sample(logits, seed, torch.tensor(rows), torch.zeros(8, dtype=torch.int64))
    assert out.ids == drawn.tokens.unsqueeze(1).tolist()


class Casts(TorchDispatchMode):
    """Counts casts of one shape to bf16."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.count = shape, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        assert not (func is torch.ops.aten.addmm.default and torch.is_grad_enabled())
        if func is torch.ops.aten._to_copy.default and args[0].shape == self.shape:
            self.count += out.dtype == torch.bfloat16
        return out


@pytest.mark.parametrize(("trunk", "times"), [(GPT2Model, 2), (FusedTrunk, 1)])
def test_in_bf16_weights_are_cast_for_the_prompts_and_for_all_tokens_once(text, trunk, times):
    """By layers of torch's; where one kernel reads all layers, for both together."""
    model = tiny_model(text, n_embd=64)  # no other weight has that shape, filled up or not
    model.transformer.__class__ = trunk
    policy = Policy(model, text.vocab, Hardware(precision="bf16"))
    with Casts(model.transformer.h[0].mlp.c_fc.weight.shape) as casts:
        out = answer(policy, text, [[i % 8, 8] for i in range(32)], range(32), most=6)
    assert max(len(ids) for ids in out.ids) > 3
    assert casts.count == times * len(model.transformer.h)

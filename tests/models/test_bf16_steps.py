"""In bf16 steps of one shape are as near fp32 as sampling without them; faults are not."""

from dataclasses import replace

import pytest
import torch

import rlhf_kernels as rk
from tests.models.judged import Judged, assert_as_accurate, judge
from tests.models.sampled import EVERY, PADDED, SEED, answer, both
from tests.tiny import tiny_model, tiny_text
from toolkit.models import cache
from toolkit.models import steps as stepping
from toolkit.models.heads import Policy
from toolkit.models.load import load_base
from toolkit.models.recording import Lowered
from toolkit.spec.schema import Hardware, Sampling
from toolkit.training.random import Stream

BF16 = Hardware(precision="bf16")
HOW = Sampling(top_k=9)
SOME = ["gpt2", "llama, grouped heads"]


@pytest.fixture(scope="module")
def text():
    return tiny_text()


def compare(model, text, monkeypatch) -> tuple[Judged, Judged]:
    """Judge answers by steps and without; the weights have changed since steps were recorded.

    The first tokens are drawn from the same logits, and are the same.
    """
    policy = Policy(model, text.vocab, BF16)
    answer(policy, text, PADDED, range(26), HOW, most=40)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    found = both(lambda: policy, text, PADDED, monkeypatch, sampling=HOW, most=40)
    first, other = ([ids[0] for ids in answers.ids] for answers in found)
    assert first == other
    ours, theirs = (judge(policy, text, PADDED, x, (SEED, range(26), HOW)) for x in found)
    return ours, theirs


@pytest.mark.parametrize("name", EVERY)
def test_steps_are_as_accurate_as_sampling_without_them(text, name, steps, monkeypatch):
    model = load_base(EVERY[name], text, Stream(1, "base"))
    assert_as_accurate(*compare(model, text, monkeypatch))
    assert max(steps) == 32


@pytest.mark.parametrize("name", EVERY)
def test_so_they_are_where_the_cache_is_bf16_and_kernels_differ(
    text, name, steps, attend_as_a_gpu, monkeypatch
):
    model = load_base(EVERY[name], text, Stream(1, "base"))
    assert_as_accurate(*compare(model, text, monkeypatch))
    assert max(steps) == 32


def test_the_residual_stream_is_fp32(text, steps, monkeypatch):
    """Twelve layers add up: with embeddings and norms in bf16 too, the error is twice as large."""
    size = {"n_layer": 12, "n_head": 4, "n_positions": 64, "initializer_range": 0.05}
    assert_as_accurate(*compare(tiny_model(text, **size), text, monkeypatch))

    def lower_everything(self, model, hardware):
        self.copies = [
            (module, name, torch.empty_like(held, dtype=torch.bfloat16))
            for module in model.modules()
            for name, held in module.named_parameters(recurse=False)
        ]

    monkeypatch.setattr(Lowered, "__init__", lower_everything)
    ours, theirs = compare(tiny_model(text, **size), text, monkeypatch)
    with pytest.raises(AssertionError):
        assert_as_accurate(ours, theirs)


def loaded(change):
    """A fault in what steps start from."""

    def plant(patch):
        real = stepping.Steps.load

        def load(self, policy, given):
            real(self, policy, given)
            change(self)

        patch.setattr(stepping.Steps, "load", load)

    return plant


def masked(by):
    """A mask that ends early or late."""
    return lambda patch: patch.setattr(
        cache.FixedLayer, "get_seq_length", lambda self: self.place[0] + by
    )


def stale(patch):
    """Copies of weights that nobody renews."""
    real = Lowered.refresh

    def refresh(self):
        if not vars(self).setdefault("old", False):
            real(self)
        self.old = True

    patch.setattr(Lowered, "refresh", refresh)


def unmoved(names):
    """Sequences that go on with what belongs to others."""

    def plant(patch):
        real = stepping.Steps.keep

        def keep(self, stay, used):
            before = [(x, x.clone()) for x in names(self)]
            real(self, stay, used)
            for tensor, values in before:
                tensor.copy_(values)

        patch.setattr(stepping.Steps, "keep", keep)

    return plant


def repeated(patch):
    """Every token by the random number of the one before."""

    class Kernels:
        @staticmethod
        def sample(logits, seed, ids, numbers, **how):
            return rk.sample(logits, seed, ids, numbers - 1, **how)

    patch.setattr(stepping, "rk", Kernels)


FAULTS = {
    "the mask shows a position more": masked(1),
    "the mask hides the token itself": masked(-1),
    "positions are one early": loaded(lambda steps: steps.lacking.add_(1)),
    "positions are one late": loaded(lambda steps: steps.lacking.sub_(1)),
    "padding is attended to": loaded(lambda steps: steps.mask.fill_(1)),
    "the cache is written one place late": loaded(lambda steps: steps.place.add_(1)),
    "weights are those before the update": stale,
    "the cache of those that left stays": unmoved(lambda steps: [x for y in steps.held for x in y]),
    "the ids of those that left stay": unmoved(lambda steps: [steps.ids]),
    "random numbers come twice": repeated,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", SOME)
def test_a_fault_is_seen(text, name, fault, steps, monkeypatch):
    model = load_base(EVERY[name], text, Stream(1, "base"))
    FAULTS[fault](monkeypatch)
    ours, theirs = compare(model, text, monkeypatch)
    with pytest.raises(AssertionError):
        assert_as_accurate(ours, theirs)


@pytest.mark.parametrize("change", [{"logprobs": 0.04}, {"entropy": 0.04}, {"moved": 0.1}])
def test_each_number_counts(change):
    sound = Judged(logprobs=0.02, entropy=0.02, moved=0.02)
    assert_as_accurate(sound, sound)
    with pytest.raises(AssertionError):
        assert_as_accurate(replace(sound, **change), sound)

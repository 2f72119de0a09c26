"""What keys and values are held in."""

import pytest
import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tests.models.sampled import EVERY, PADDED, answer
from tests.tiny import tiny_text
from toolkit.models import attention, cache
from toolkit.models.heads import Policy
from toolkit.models.load import load_base
from toolkit.spec.schema import Hardware, Sampling
from toolkit.training.random import Stream


@pytest.fixture(scope="module")
def text():
    return tiny_text()


def test_rotated_keys_held_in_bf16_change_no_bit(text, steps, monkeypatch):
    """Autocast would round them to it before every product."""
    AttentionInterface.register("sdpa", sdpa_attention_forward)
    try:
        found = []
        for dtype in (torch.float32, torch.bfloat16):
            monkeypatch.setattr(cache, "held_dtype", lambda states, dtype=dtype: dtype)
            model = load_base(EVERY["llama, grouped heads"], text, Stream(1, "base"))
            policy = Policy(model, text.vocab, Hardware(precision="bf16"))
            found.append(answer(policy, text, PADDED, range(26), Sampling(top_k=9), most=40))
            assert policy.steps.kept[-1].held[0][0].dtype == dtype
    finally:
        AttentionInterface.register("sdpa", attention._attend)
    assert found[0].ids == found[1].ids
    assert torch.equal(found[0].logprobs, found[1].logprobs)


def test_a_cache_holds_what_attention_computes_in(monkeypatch):
    states = torch.zeros(1)
    assert cache.held_dtype(states) == cache.held_dtype(states.bfloat16()) == torch.float32
    elsewhere = torch.zeros(1, device="meta")
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)
    assert cache.held_dtype(elsewhere) == torch.float32
    assert cache.held_dtype(elsewhere.bfloat16()) == torch.bfloat16
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: True)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda kind: torch.bfloat16)
    assert cache.held_dtype(elsewhere) == torch.bfloat16
    assert cache.held_dtype(states) == torch.float32

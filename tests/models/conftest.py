"""A tiny model; sampling by steps of one shape on a CPU, where nothing is recorded, as on a GPU."""

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tests.tiny import tiny_model, tiny_text
from toolkit import rollout
from toolkit.models import attention, cache, graphs, recording


def unrecorded(patch: pytest.MonkeyPatch, ran: dict[int, int]) -> None:
    """Let sampling take the steps, which run as they are; `ran` counts how often, by their size."""

    def capture(step, aside, pool):
        for _ in range(2):
            aside()
            step()
        size = step.args[1]

        def run():
            ran[size] = ran.get(size, 0) + 1
            step()

        return run

    patch.setattr(graphs, "wanted", lambda policy, tokens: policy.steps is not graphs._NONE)
    patch.setattr(recording, "capture", capture)


@contextlib.contextmanager
def as_a_gpu() -> Iterator[None]:
    """Attend in bf16, with keys and values held in it; by another kernel over a whole cache."""

    def attend(module, query, key, value, mask, **settings):
        whole = query.shape[2] == 1 and key.shape[2] % graphs._ROOMS == 0
        with sdpa_kernel(SDPBackend.MATH if whole else SDPBackend.FLASH_ATTENTION):
            return sdpa_attention_forward(module, query, key, value, mask, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "held_dtype", lambda states: torch.bfloat16)
        AttentionInterface.register("sdpa", attend)
        try:
            yield
        finally:
            AttentionInterface.register("sdpa", attention._attend)


@pytest.fixture(scope="module")
def text():
    """Ten tokens and one for padding."""
    return tiny_text()


@pytest.fixture
def model(text):
    """Two layers, new for each test."""
    return tiny_model(text)


@pytest.fixture
def steps(monkeypatch):
    """Sampling takes the steps; how often, by their size."""
    ran: dict[int, int] = {}
    unrecorded(monkeypatch, ran)
    monkeypatch.setattr(rollout, "_LOOK", 4)
    return ran


@pytest.fixture
def attend_as_a_gpu():
    """Attention is a GPU's."""
    with as_a_gpu():
        yield

"""The cases of every op as a GPU gets them, on tensors that only say they are there."""

import importlib

import pytest
import torch

from rlhf_kernels import _registry
from rlhf_kernels.bench import inputs, linear, providers
from rlhf_kernels.bench.cases import Settings
from rlhf_kernels.bench.harness import compare
from tests import pretend_cuda as pretend_cuda_module
from tests.bench.test_command import SMALL, TOLERANCE, make_flat_logits
from tests.pretend_cuda import Pretended, pretend_cuda


@pytest.fixture
def pretend(monkeypatch):
    monkeypatch.setattr(inputs, "make_logits", make_flat_logits)
    monkeypatch.setattr(linear, "PEAK", 0.0)
    monkeypatch.setattr(providers, "COMPILE_MODES", {"cuda": None})
    monkeypatch.setattr(pretend_cuda_module, "HEAVY", set())  # truths may stay on the CPU
    with pretend_cuda(monkeypatch):
        yield


def make_cases(op):
    settings = Settings(shape=SMALL.get(op, (6, 33)), dtypes=(torch.float32,), device="cuda")
    return list(importlib.import_module(f"rlhf_kernels.bench.bench_{op}").make_cases(settings))


@pytest.mark.usefixtures("pretend")
@pytest.mark.parametrize("op", sorted(_registry.OPS))
def test_every_case_keeps_to_its_device_and_can_be_built_again(op):
    for first in make_cases(op):
        truth = first.truth()
        for case in (first, first.again()):
            for provider in case.providers:
                if provider.run is None or provider.compiled:
                    continue
                if provider.prepare:
                    provider.prepare()
                results = provider.run()
                assert all(isinstance(x, Pretended) for x in results.values()), provider.name
                error, _ = compare(results, truth)
                assert error is not None
                assert error < TOLERANCE, provider.name

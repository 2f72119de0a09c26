"""Inputs of the row tests: logits like a language model's, and the sizes that matter."""

import pytest
import torch

import rlhf_kernels._registry as registry

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

#: One, two, odd below a vector, a block less one, a block, a block and one, GPT-2, its padded form.
VOCABS = (1, 2, 7, 31, 2047, 2048, 2049, 50257, 50304)
#: Larger vocabularies of real models, checked in one dtype.
LARGE_VOCABS = (128256, 151936, 262144)

ISAS = ("avx512bf16", "avx512", "avx2", "baseline")


def make_logits(n, vocab, dtype=torch.float32, seed=0):
    """Sigma 3 and one peak per row, as a trained model's."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, vocab, generator=generator, dtype=torch.float64)
    logits[torch.arange(n), torch.randint(vocab, (n,), generator=generator)] += 8.0
    return logits.to(dtype)


def make_targets(n, vocab, seed=1):
    return torch.randint(vocab, (n,), generator=torch.Generator().manual_seed(seed))


def choose_isa(name, monkeypatch):
    """Let the kernels use an instruction set, or skip the test where the machine lacks it."""
    monkeypatch.setenv("RLHF_KERNELS_ISA", name)
    try:
        registry.current_isa()
    except ValueError:
        pytest.skip(f"this machine has no {name}")
    assert registry.current_isa() == name
    return name


@pytest.fixture(params=ISAS)
def isa(request, monkeypatch):
    """Run the test on each instruction set that this machine has."""
    return choose_isa(request.param, monkeypatch)


def poison(logits, extra=5):
    """The same values as a slice of a wider tensor whose padding columns are NaN and inf."""
    n, vocab = logits.shape
    wide = torch.full((n, vocab + extra), torch.nan, dtype=logits.dtype)
    wide[:, vocab + 1 :] = torch.inf
    wide[:, :vocab] = logits
    return wide[:, :vocab]


def with_threads(count, function):
    """Call with a number of OpenMP threads, then restore the old one."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return function()
    finally:
        torch.set_num_threads(before)

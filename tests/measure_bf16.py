"""Measure on a CPU how accurate sampling in bf16 is, with and without steps of one shape; no test.

python -m tests.measure_bf16 [--large]

Logits of given tokens against float64: of a pass over the whole text, of sampling token by token,
and of the steps, which run unrecorded. The latter two also as on a GPU (tests/models/conftest.py):
keys, values and attention in bf16, the steps with another kernel of attention. Without --large the
small models of the tests; with it gpt2 of 125 million parameters, V = 50257, 8 x (64 + 64) tokens,
which takes a minute.

Dims: B sequences, T given tokens, V softmax width.
"""

import argparse
import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import rlhf_kernels as rk
from tests.measure_rollout import LARGE, make_model
from tests.models.conftest import as_a_gpu, unrecorded
from tests.models.sampled import EVERY, PADDED
from tests.tiny import tiny_text
from toolkit import rollout
from toolkit.data.batches import collate
from toolkit.models import graphs, steps
from toolkit.models.heads import Policy
from toolkit.models.load import load_base
from toolkit.rollout import sample_answers
from toolkit.spec.schema import Hardware, Sampling
from toolkit.training.random import Stream


class Given:
    """Kernels whose `sample` draws given tokens [B, T], and keeps the logits [B, T, V].

    Sequence 0 is nobody's: steps count their empty rows under it.
    """

    def __init__(self, tokens: Tensor, vocab: int) -> None:
        """Keep nothing yet."""
        self.tokens = tokens
        self.logits = torch.zeros(*tokens.shape, vocab)

    def sample(self, logits: Tensor, seed: int, ids: Tensor, numbers: Tensor, **_: Any) -> Any:
        """Draw what is given; a run before a recording has a number that no token has."""
        known = numbers.expand(len(ids)).clamp(max=self.tokens.shape[1] - 1)
        real = (known == numbers) & (ids > 0)
        self.logits[ids[real] - 1, known[real]] = logits[real].float()
        nothing = torch.zeros(len(ids))
        return rk.Samples(self.tokens[ids - 1, known], nothing, nothing, nothing)


def sampled(policy: Policy, text: Any, prompts: list[list[int]], given: Tensor, by: str) -> Tensor:
    """Return the logits that sampling sees, by "steps" or by "tokens"."""
    kernels = Given(given, policy.vocab)
    with pytest.MonkeyPatch.context() as patch:
        for module in (rollout, steps):
            patch.setattr(module, "rk", kernels)
        unrecorded(patch, {})
        patch.setattr(graphs, "wanted", lambda policy, tokens: by == "steps")
        sample_answers(
            policy, text, prompts, sampling=Sampling(),
            draws=(Stream(1), "answer", range(1, len(prompts) + 1)), max_response=given.shape[1],
        )  # fmt: skip
    return kernels.logits


@torch.no_grad()
def read(policy: Policy, text: Any, prompts: list[list[int]], given: Tensor, how: str) -> Tensor:
    """Return the logits of a pass over the text, sequence by sequence; in "float64" or "bf16"."""
    model = copy.deepcopy(policy.model).double() if how == "float64" else policy.model
    found = []
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=how == "bf16"):
        for prompt, tokens in zip(prompts, given.tolist(), strict=True):
            batch = collate([prompt], [tokens], text.pad_id)
            logits = model(batch.inputs, use_cache=False).logits[0, batch.places, : policy.vocab]
            found.append(logits if how == "float64" else logits.float())
    return torch.stack(found)


def logprobs(logits: Tensor, given: Tensor) -> Tensor:
    """Return the log-probs [B, T] of the given tokens."""
    rows = logits.flatten(0, 1).contiguous()
    return rk.gather_logprobs(rows, given.flatten()).logprobs.view_as(given)


def draws(logits: Tensor) -> Tensor:
    """Draw a token from each row, always by the same random numbers; int64 [B T]."""
    rows = logits.flatten(0, 1).contiguous()
    numbers = torch.arange(len(rows))
    return rk.sample(rows, 1, numbers, torch.zeros_like(numbers)).tokens


def measure(name: str, model: Any, vocab: int, text: Any, prompts: list[list[int]]) -> None:
    """Print a model's rows."""
    generator = torch.Generator().manual_seed(1)
    given = torch.randint(
        0, vocab - 1, (len(prompts), 64 if vocab > 50 else 40), generator=generator
    )
    policy = Policy(model, vocab, Hardware(precision="bf16", fused_head=False))
    arguments = (text, prompts, given)
    truth = read(policy, *arguments, "float64")
    rounded = draws(truth.bfloat16().float()) == draws(truth.float())
    passed = read(policy, *arguments, "bf16")
    ways = {"a pass": passed}
    for by in ("tokens", "steps"):
        ways[by] = sampled(policy, *arguments, by)
        with as_a_gpu():
            fresh = Policy(model, vocab, policy.hardware)
            ways[f"{by}, as a GPU"] = sampled(fresh, *arguments, by)
    print(f"{name}: float64 logits rounded to bf16 draw the same of {rounded.double().mean():.3f}")
    for way, logits in ways.items():
        error = (logits - truth).square().mean().sqrt()
        apart = (logprobs(logits, given) - logprobs(passed, given)).abs().max()
        print(f"  {way:18s} RMS error {error:.5f}, log-probs at most {apart:.4f} from a pass")
    pairs = (ways["tokens, as a GPU"], ways["steps, as a GPU"])
    alike = (draws(pairs[0]) == draws(pairs[1])).double().mean()
    print(f"  as a GPU, steps and tokens draw the same of {alike:.3f}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--large", action="store_true")
    torch.set_num_threads(1)
    if parser.parse_args().large:
        sizes, vocab, _, length, _ = LARGE["125M"]
        model = make_model(sizes, vocab, "cpu")
        prompts = torch.randint(0, vocab, (8, length)).tolist()
        measure("125M", model, vocab, SimpleNamespace(eos_id=-2, pad_id=vocab), prompts)
        return
    text = tiny_text()
    never = SimpleNamespace(eos_id=-2, pad_id=text.pad_id)
    for name, source in EVERY.items():
        model = load_base(source, text, Stream(1, "base"))
        measure(name, model, text.vocab, never, PADDED)


if __name__ == "__main__":
    main()

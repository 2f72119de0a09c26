"""Answers in one row with their prompt against each with its own: time of both passes.

    python -m tests.measure_shared [--bf16] [--threads 2]

A GPT-2 of 12M parameters, about 4000 tokens apart a pass; both ways in turn in one process, the
median of the ratios of neighbouring passes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedModel,
)

from toolkit.models.activation import fuse_activations
from toolkit.models.heads import Policy, Scorer
from toolkit.spec.schema import Hardware
from toolkit.training.device import set_up_memory

SIZES = {"n_layer": 6, "n_embd": 384, "n_head": 6, "vocab_size": 4096, "n_positions": 1024}
#: Answers, tokens of the prompt, tokens of an answer at most; half as many at least.
CASES = [(2, 256, 64), (4, 64, 64), (4, 256, 64), (4, 256, 256), (9, 64, 64), (9, 256, 64)]
TOKENS, ROUNDS = 4000, 7

Groups = tuple[list[list[int]], list[list[list[int]]]]


def make_groups(count: int, prompt: int, answer: int) -> Groups:
    """Draw prompts and answers of as many prompts as TOKENS hold."""
    draw = torch.Generator().manual_seed(0)
    prompts = max(1, TOKENS // (count * (prompt + answer)))

    def tokens(length: int) -> list[int]:
        return torch.randint(4000, (length,), generator=draw).tolist()

    def length() -> int:
        return int(torch.randint(answer // 2, answer + 1, (), generator=draw))

    answers = [[tokens(length()) for _ in range(count)] for _ in range(prompts)]
    return [tokens(prompt) for _ in range(prompts)], answers


def make(kind: type[PreTrainedModel]) -> PreTrainedModel:
    """Make a model with random weights, as a stage has it."""
    torch.manual_seed(0)
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = kind(GPT2Config(**SIZES, **off, num_labels=1, pad_token_id=0)).eval()
    fuse_activations(model)
    return model


def seconds(model: PreTrainedModel, read: Callable[..., torch.Tensor], groups: Groups) -> float:
    """Time both passes."""
    start = time.perf_counter()
    read(*groups).square().sum().backward()
    taken = time.perf_counter() - start
    model.zero_grad()
    return taken


def compare(name: str, ours: Callable[..., torch.Tensor], apart: Callable[..., torch.Tensor],
            model: PreTrainedModel) -> None:  # fmt: skip
    """Print a row for each case."""
    for count, prompt, answer in CASES:
        groups = make_groups(count, prompt, answer)
        times = [(seconds(model, ours, groups), seconds(model, apart, groups))
                 for _ in range(ROUNDS + 1)][1:]  # fmt: skip
        shared, own = (median(column) * 1e3 for column in zip(*times, strict=True))
        ratio = median(one / other for one, other in times)
        print(f"{name}, {count} answers, {prompt} + {answer} tokens: "
              f"{shared:.0f} ms in one row, {own:.0f} apart, {ratio:.2f}")  # fmt: skip


def main() -> None:
    """Measure the reward model's scores and a policy's log-probs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    set_up_memory()
    hardware = Hardware(precision="bf16" if args.bf16 else "fp32")
    model = make(GPT2ForSequenceClassification)
    scorers = Scorer(model, hardware), Scorer(model, hardware)
    scorers[0].allow_rows()
    compare("scores", *(lambda *g, s=s: s.scores_of(s.collate(*g)) for s in scorers), model)
    model = make(GPT2LMHeadModel)
    policies = Policy(model, 4000, hardware), Policy(model, 4000, hardware)
    policies[0].allow_rows()
    compare("log-probs", *(lambda *g, p=p: p.answer_logprobs(p.collate(*g)) for p in policies),
            model)  # fmt: skip


if __name__ == "__main__":
    main()

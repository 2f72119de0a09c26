"""Time rollouts, against transformers' generate() in the same process; no test.

python -m tests.measure_rollout [--profile]

Two models without a tokenizer: that of specs/sort.yaml, and one of 12 million parameters with a
vocabulary of 4096 (prompts and answers of 64 tokens, batch 32). CPU seconds of one thread, the
least of several turns; generate() and we take turns.
"""

import cProfile
import pstats
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch
import transformers

from toolkit.models.compute import prepare_products, token_precision
from toolkit.models.heads import Policy
from toolkit.rollout import sample_answers
from toolkit.spec.schema import Hardware, Sampling
from toolkit.training.random import Stream

MODELS = {
    "sort": ({"n_layer": 3, "n_embd": 128, "n_head": 4, "n_positions": 32}, 31, 128, 6, 8),
    "12M": ({"n_layer": 6, "n_embd": 384, "n_head": 6, "n_positions": 128}, 4096, 32, 64, 64),
}
"""Name -> (config, vocabulary, batch, prompt tokens, response tokens)."""


def make(name: str, precision: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return (ours, generate)."""
    sizes, vocab, batch, prompt, response = MODELS[name]
    config = transformers.GPT2Config(
        vocab_size=vocab + 1, activation_function="gelu_pytorch_tanh", **sizes
    )
    torch.manual_seed(0)
    policy = Policy(
        transformers.AutoModelForCausalLM.from_config(config).eval(),
        vocab,
        Hardware(precision=precision),
    )
    never = SimpleNamespace(eos_id=-2, pad_id=vocab)
    prompts = torch.randint(0, vocab, (batch, prompt))

    def ours() -> object:
        return sample_answers(
            policy,
            never,
            prompts.tolist(),
            sampling=Sampling(),
            draws=(Stream(1), "answer", range(batch)),
            max_response=response,
        )

    @torch.no_grad()
    def generate() -> object:
        with token_precision(policy.hardware, policy.device):
            return policy.model.generate(
                prompts, attention_mask=torch.ones_like(prompts), do_sample=True, top_k=0,
                min_new_tokens=response, max_new_tokens=response, pad_token_id=vocab,
            )  # fmt: skip

    return ours, generate


def seconds(run: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def profile(run: Callable[[], object]) -> None:
    """Print where one call spends its time."""
    with cProfile.Profile() as record:
        run()
    pstats.Stats(record).sort_stats("tottime").print_stats(15)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    prepare_products("cpu")
    for name, precision in (("sort", "fp32"), ("12M", "fp32"), ("12M", "bf16")):
        pair = make(name, precision)
        turns = [[seconds(run) for run in pair] for _ in range(20 if name == "sort" else 4)]
        ours, theirs = (min(column) for column in zip(*turns, strict=True))
        episodes = MODELS[name][2]
        print(
            f"{name} {precision}: {episodes / ours:.0f} episodes/s, generate() "
            f"{episodes / theirs:.0f}, ratio {theirs / ours:.2f}"
        )
        if "--profile" in sys.argv:
            profile(pair[0])


if __name__ == "__main__":
    main()

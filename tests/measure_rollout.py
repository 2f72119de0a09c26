"""Time rollouts, against transformers' generate() in the same process; no test.

python -m tests.measure_rollout [--profile]
python -m tests.measure_rollout --device cuda [--models 125M 1.3B] [--precisions bf16 fp32]

On a CPU two models without a tokenizer: that of specs/sort.yaml, and one of 12 million parameters
with a vocabulary of 4096 (prompts and answers of 64 tokens, batch 32). CPU seconds of one thread,
the least of several turns; generate() and we take turns.

On a GPU two of 125 million and 1.3 billion parameters (64 + 64 tokens, V = 50257, batch 64 and 32):
answers without end by recorded steps and kernel by kernel, the seconds of the first call, which
records, and the least of two later ones; how far each is from fp32 (tests/models/judged.py).
"""

import argparse
import cProfile
import pstats
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch
import transformers

from tests.models.judged import judge
from toolkit.models.activation import fuse_activations
from toolkit.models.compute import prepare_products, token_precision
from toolkit.models.heads import Policy
from toolkit.models.layers import fuse_layers
from toolkit.models.trunk import fuse_trunk
from toolkit.rollout import Answers, sample_answers
from toolkit.spec.schema import Hardware, Sampling
from toolkit.training.device import prepare_device
from toolkit.training.random import Stream

MODELS = {
    "sort": ({"n_layer": 3, "n_embd": 128, "n_head": 4, "n_positions": 32}, 31, 128, 6, 8),
    "12M": ({"n_layer": 6, "n_embd": 384, "n_head": 6, "n_positions": 128}, 4096, 32, 64, 64),
}
"""Name -> (config, vocabulary, batch, prompt tokens, response tokens)."""

LARGE = {
    "125M": ({"n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 128}, 50257, 64, 64, 64),
    "1.3B": ({"n_layer": 24, "n_embd": 2048, "n_head": 16, "n_positions": 128}, 50257, 32, 64, 64),
}
"""The same for a GPU."""


def make_model(sizes: dict[str, int], vocab: int, device: str) -> transformers.PreTrainedModel:
    """Draw a model where it is used, with the kernels that a stage gives it."""
    config = transformers.GPT2Config(
        vocab_size=vocab + 1, activation_function="gelu_pytorch_tanh", **sizes
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
    fuse_activations(model)
    fuse_layers(model)
    fuse_trunk(model)
    return model


def make(name: str, precision: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return (ours, generate)."""
    sizes, vocab, batch, prompt, response = MODELS[name]
    policy = Policy(make_model(sizes, vocab, "cpu"), vocab, Hardware(precision=precision))
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


def measure_on_gpu(name: str, model: transformers.PreTrainedModel, precision: str) -> None:
    """Print tokens/s and accuracy with and without recorded steps, and which answers are alike."""
    _, vocab, batch, prompt, response = LARGE[name]
    prompts = torch.randint(0, vocab, (batch, prompt)).tolist()
    never = SimpleNamespace(eos_id=-2, pad_id=vocab)
    found = []
    for graphs in ("auto", "off"):
        policy = Policy(model, vocab, Hardware(precision=precision, cuda_graphs=graphs))

        def run(policy: Policy = policy) -> Answers:
            return sample_answers(
                policy, never, prompts, sampling=Sampling(),
                draws=(Stream(1), "answer", range(batch)), max_response=response,
            )  # fmt: skip

        torch.cuda.reset_peak_memory_stats()
        first, *times = (wall(run) for _ in range(3))
        answers = run()
        found.append(answers.ids)
        draws = (Stream(1).seed64("answer"), range(batch), Sampling())
        judged = judge(policy, never, prompts, answers, draws)
        tokens = sum(map(len, found[-1]))
        recorded = [list(steps.recorded) for steps in getattr(policy.steps, "kept", [])]
        print(
            f"{name} {precision}, graphs {graphs}: first {first:.2f} s, then "
            f"{1e3 * min(times):.1f} ms, {tokens / min(times):.0f} tokens/s, peak "
            f"{torch.cuda.max_memory_allocated() / 1e9:.2f} GB, recorded sizes {recorded}; "
            f"log-probs {judged.logprobs:.2g} nats from fp32, {judged.moved:.1%} of draws moved",
            flush=True,
        )
    same = [a == b for a, b in zip(*found, strict=True)]
    print(f"{name} {precision}: {sum(same)} of {len(same)} answers the same", flush=True)


def wall(run: Callable[[], object]) -> float:
    """Seconds of one call, until the GPU has done it."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--models", nargs="+", choices=list(LARGE), default=list(LARGE))
    parser.add_argument("--precisions", nargs="+", default=["bf16", "fp32"])
    options = parser.parse_args()
    if options.device == "cuda":
        prepare_device("cuda", deterministic=True)
        torch.set_deterministic_debug_mode("error")  # as in a run
        torch.utils.deterministic.fill_uninitialized_memory = False
        for name in options.models:
            model = make_model(*LARGE[name][:2], "cuda")
            for precision in options.precisions:
                measure_on_gpu(name, model, precision)
        return
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
        if options.profile:
            profile(pair[0])


if __name__ == "__main__":
    main()

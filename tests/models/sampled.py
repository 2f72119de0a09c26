"""Models, prompts and ways to sample, for the tests of recorded steps."""

from tests.test_rollout import MODELS, small
from toolkit.models import graphs
from toolkit.rollout import sample_answers
from toolkit.spec.schema import Sampling
from toolkit.training.random import Stream

EVERY = MODELS | {"gpt_neox": small("gpt_neox"), "qwen2": small("qwen2", num_key_value_heads=2)}

PADDED = [[i % 8] * (1 + i % 6) + [8] for i in range(26)]
EVEN = [[i % 8, (3 * i) % 8, 8] for i in range(26)]
SHARED = [[i % 4, 8] for i in range(26)]

SEED = Stream(1, "ppo", 1).seed64("answer")


def answer(policy, text, prompts, rows, sampling=None, most=24):
    return sample_answers(
        policy,
        text,
        prompts,
        sampling=sampling or Sampling(),
        draws=(Stream(1, "ppo", 1), "answer", rows),
        max_response=most,
    )


def both(make, text, prompts, monkeypatch, **how):
    """The same answers by steps and without."""
    rows = range(len(prompts))
    ours = answer(make(), text, prompts, rows, **how)
    with monkeypatch.context() as patch:
        patch.setattr(graphs, "wanted", lambda policy, tokens: False)
        return ours, answer(make(), text, prompts, rows, **how)

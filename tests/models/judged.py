"""How near sampled answers are to fp32, each token after the tokens before it.

Whole answers are no measure of bf16: it moves a draw now and then, and every later token with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import rlhf_kernels as rk
from toolkit.data.batches import TokenLists, collate
from toolkit.data.tokenize import Text
from toolkit.models.heads import Policy
from toolkit.rollout import Answers
from toolkit.spec.schema import Sampling

_FLOOR = 1e-5  # nats; fp32 has 2e-6 against itself, token by token and whole
_LIKE = 1.5  # other answers have other roundings: ratios of 0.85 to 1.15 were seen
_MOVED = 0.03  # 7 of 200 draws; a share of them is as uncertain


@dataclass(frozen=True)
class Judged:
    """The tokens of some answers against fp32.

    Args:
        logprobs: RMS of what the log-probs kept from sampling are off, nats.
        entropy: the same of entropies.
        moved: share of tokens where the same random number draws another.
    """

    logprobs: float
    entropy: float
    moved: float


@torch.inference_mode()
def judge(
    policy: Policy,
    text: Text,
    prompts: TokenLists,
    answers: Answers,
    draws: tuple[int, Sequence[int], Sampling],
) -> Judged:
    """Read prompts and answers in fp32, without a cache, and draw each token again.

    Args:
        policy: whose weights they are.
        text: the padding id.
        prompts: B token lists.
        answers: theirs.
        draws: the seed, the B indices and the sampling that the answers were drawn with.
    """
    batch, device = collate(prompts, answers.ids, text.pad_id), policy.device
    every = policy.model(batch.inputs.to(device), use_cache=False).logits.flatten(0, 1)
    logits = every[batch.places.to(device), : policy.vocab].contiguous()
    targets, mask = batch.targets.to(device), batch.mask
    seed, rows, how = draws
    ids = torch.tensor(rows).unsqueeze(1).expand_as(mask)[mask].to(device)
    numbers = torch.arange(mask.shape[1]).expand_as(mask)[mask].to(device)
    again = rk.sample(
        logits, seed, ids, numbers,
        temperature=how.temperature, top_k=how.top_k, top_p=how.top_p,
    )  # fmt: skip
    exact = rk.gather_logprobs(logits, targets, temperature=how.temperature)
    kept = mask.to(device)
    return Judged(
        logprobs=_rms(answers.logprobs[kept] - exact.logprobs),
        entropy=_rms(answers.entropy[kept] - exact.entropy),
        moved=float((again.tokens != targets).double().mean()),
    )


def _rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


def assert_as_accurate(ours: Judged, theirs: Judged) -> None:
    """Assert that some answers are as near fp32 as others, of the same weights and precision."""
    assert ours.logprobs <= _LIKE * theirs.logprobs + _FLOOR, (ours, theirs)
    assert ours.entropy <= _LIKE * theirs.entropy + _FLOOR, (ours, theirs)
    assert ours.moved <= 2 * theirs.moved + _MOVED, (ours, theirs)

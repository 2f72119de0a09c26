"""How well each round's reward model orders the final policy's own answers, by the oracle.

A reward model is right on answers like those it was trained on; the policy moves away from them.
Its accuracy on held-out comparisons does not show that; this figure does.
"""

from __future__ import annotations

from typing import Any

import torch

import rlhf_kernels as rk
from toolkit.data.batches import collate, offsets
from toolkit.data.oracle import Oracle
from toolkit.data.tokenize import Text
from toolkit.models.heads import Policy, Scorer
from toolkit.models.load import load_scalar
from toolkit.rollout import sample_answers
from toolkit.spec.schema import Sampling
from toolkit.stages.context import StageContext
from toolkit.stages.shared import Record, reward_folder, stream_of
from toolkit.training.device import move

_ANSWERS = 4  # K of each prompt
_CHUNK = 64  # prompts answered together; the answers do not depend on it


def own_accuracy(
    ctx: StageContext, text: Text, policy: Policy, prompts: list[Record], oracle: Oracle
) -> dict[str, Any]:
    """Return the prompts, the pairs the oracle tells apart, and each reward model's accuracy.

    Args:
        ctx: evaluate's; it reads "reward", and "reward.1" ... where there are rounds.
        text: the tokenizer.
        policy: who answers each prompt four times, at the policy's temperature.
        prompts: held-out prompts.
        oracle: who ranks.
    """
    answers = _answers(ctx, text, policy, prompts)
    named = ([a[key] for a in answers] for key in ("prompt", "response", "finished"))
    scores = torch.tensor(oracle(*named), dtype=torch.float64)
    ranks = [1 + int((row > own).sum()) for row in scores.view(-1, _ANSWERS) for own in row]
    groups = torch.tensor(offsets([_ANSWERS] * len(prompts)))
    result: dict[str, Any] = {"prompts": len(prompts), "pairs": 0, "accuracy": {}}
    for name, folder in _rewards(ctx).items():
        scorer = Scorer(load_scalar(folder, text, ctx.device), ctx.spec.hardware)
        values = torch.cat([_scores(scorer, part, text) for part in _parts(answers)])
        where = [move(x, values.device) for x in (torch.tensor(ranks), groups)]
        _, stats = rk.ranking_loss(values, *where, ties="drop")
        result["pairs"] = int(stats["pairs"])
        result["accuracy"][name] = float(stats["accuracy"]) if result["pairs"] else None
    return result


def _rewards(ctx: StageContext) -> dict[str, Any]:
    """Return name -> folder of each round's reward model; of the only one as "reward"."""
    rounds = sorted(
        (k for k in ctx.inputs if k.startswith("reward.")), key=lambda k: int(k.rpartition(".")[2])
    )
    if rounds:
        return {name: ctx.inputs[name] / "model" for name in rounds}
    folder = reward_folder(ctx)
    return {} if folder is None else {"reward": folder}


def _answers(
    ctx: StageContext, text: Text, policy: Policy, prompts: list[Record]
) -> list[dict[str, Any]]:
    stream, found = stream_of(ctx), []
    order = sorted(range(len(prompts)), key=lambda p: len(prompts[p]["prompt_ids"]))
    for first in range(0, len(order), _CHUNK):
        rows = [p for p in order[first : first + _CHUNK] for _ in range(_ANSWERS)]
        ids = [prompts[p]["prompt_ids"] for p in rows]
        drawn = sample_answers(
            policy,
            text,
            ids,
            sampling=Sampling(temperature=policy.temperature),
            draws=(stream, "own", range(first * _ANSWERS, first * _ANSWERS + len(rows))),
            max_response=ctx.spec.text.max_response,
        )
        found += [
            {
                "prompt": prompts[p]["prompt"],
                "prompt_ids": prompts[p]["prompt_ids"],
                "ids": answer,
                "response": text.decode_response(answer)[0],
                "finished": done,
            }
            for p, answer, done in zip(rows, drawn.ids, drawn.finished, strict=True)
        ]
    return found


def _parts(answers: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    size = _CHUNK * _ANSWERS
    return [answers[a : a + size] for a in range(0, len(answers), size)]


def _scores(scorer: Scorer, answers: list[dict[str, Any]], text: Text) -> torch.Tensor:
    prompts, responses = ([a[key] for a in answers] for key in ("prompt_ids", "ids"))
    return scorer.scores(collate(prompts, responses, text.pad_id))

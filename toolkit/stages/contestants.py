"""Which models `evaluate` compares, and what each reads before a prompt.

base      the pretrained model
prompted  the pretrained model behind a few-shot prefix: demonstrations, then the prompt (the
          paper's "GPT-3 prompted")
init      where the learner started, where that is a model of its own
sft       the model after supervised fine-tuning
ppo.1     the policy of an earlier round, such as the first
ppo_ema, ppo_last    the last policy, averaged and as it is; likewise for other learners
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedModel

from toolkit.data.lines import read_records
from toolkit.data.oracle import Oracle
from toolkit.data.tokenize import Text
from toolkit.models.load import load_policy
from toolkit.spec.errors import StageFailed
from toolkit.stages.context import StageContext
from toolkit.stages.shared import Record, load_pretrained, needed

_CHOICE = 256  # demonstrations among which the prefix is chosen


@dataclass(frozen=True)
class Contestant:
    """One model of the comparison.

    Args:
        load: returns the model; None: the SFT model, which evaluate holds anyway.
        prefix: token ids in front of every prompt.
        weights: "ema" or "last" of the last learner, else None.
    """

    load: Callable[[], PreTrainedModel] | None = None
    prefix: Sequence[int] = field(default=())
    weights: str | None = None


def contestants(ctx: StageContext, text: Text, oracle: Oracle | None) -> dict[str, Contestant]:
    """Return name -> model, in the order of the module's text."""
    config = needed(ctx.spec.evaluate)
    found: dict[str, Contestant] = {}
    if config.base:
        found["base"] = Contestant(lambda: load_pretrained(ctx, text))
    if config.shots:
        prefix = few_shot(ctx, text, oracle, config.shots)
        found["prompted"] = Contestant(lambda: load_pretrained(ctx, text), prefix)
    if "init" in ctx.inputs:
        found["init"] = _folder(ctx, text, "init", "model")
    found["sft"] = Contestant()
    earlier = sorted((key for key in ctx.inputs if key.startswith("learner.")), key=_round)
    for key in earlier:
        if ctx.inputs[key] != ctx.inputs["learner"]:
            found[f"{ctx.spec.learner}.{_round(key)}"] = _folder(ctx, text, key, "policy")
    if "learner" in ctx.inputs:
        for weights, folder in (("ema", "policy_ema"), ("last", "policy")):
            if (ctx.inputs["learner"] / folder).exists():
                name = f"{ctx.spec.learner}_{weights}"
                found[name] = _folder(ctx, text, "learner", folder, weights)
    return found


def _folder(
    ctx: StageContext, text: Text, key: str, folder: str, weights: str | None = None
) -> Contestant:
    path = ctx.inputs[key] / folder
    return Contestant(lambda: load_policy(path, text, ctx.device), weights=weights)


def _round(key: str) -> int:
    return int(key.rpartition(".")[2])


def few_shot(ctx: StageContext, text: Text, oracle: Oracle | None, shots: int) -> list[int]:
    """Return the ids of `shots` demonstrations, each closed by end-of-text.

    They are the ones that the oracle rates best among the first 256, where there is an oracle, as
    the paper's prefix was chosen for its answers; each answer is another one, where there are so
    many.

    Raises:
        StageFailed: there are too few demonstrations, or they do not fit the model's positions.
    """
    path = ctx.inputs["data"] / "demonstrations.train.jsonl"
    records = read_records(path)[:_CHOICE] if path.exists() else []
    if len(records) < shots:
        raise StageFailed(
            f"evaluate.shots is {shots} but there are {len(records)} demonstrations; lower it or "
            "give more"
        )
    if oracle is not None:
        prompts, responses = ([r[key] for r in records] for key in ("prompt", "response"))
        scores = oracle(prompts, responses, [True] * len(records))
        records = [records[at] for at in sorted(range(len(records)), key=lambda at: -scores[at])]
    chosen: list[Record] = []
    for other in (True, False):
        for record in records:
            new = record["response"] not in [c["response"] for c in chosen]
            if len(chosen) < shots and record not in chosen and (new or not other):
                chosen.append(record)
    ids = [token for r in chosen for token in (*r["prompt_ids"], *r["response_ids"])]
    _check_positions(ctx, len(ids), shots)
    return ids


def _check_positions(ctx: StageContext, prefix: int, shots: int) -> None:
    text, config = ctx.spec.text, ctx.spec.models.base.config
    positions = config.get("n_positions", config.get("max_position_embeddings"))
    whole = prefix + text.max_prompt + text.max_response
    if isinstance(positions, int) and whole > positions:
        raise StageFailed(
            f"evaluate.shots: {shots} demonstrations take {prefix} tokens, with prompt and answer "
            f"up to {whole}, but the model has {positions} positions; lower evaluate.shots"
        )

"""The four models of PPO, and where each starts."""

from __future__ import annotations

from toolkit.data.tokenize import Text
from toolkit.models.heads import Policy, Scorer
from toolkit.models.load import load_policy, load_scalar, make_scalar
from toolkit.spec.errors import StageFailed
from toolkit.stages.context import StageContext
from toolkit.stages.experience import Models
from toolkit.stages.shared import load_start, needed, reward_folder, sft_folder
from toolkit.training.random import Stream


def continues(ctx: StageContext) -> bool:
    """Whether the policy goes on from the previous round's, and so is not the reference."""
    return "learner" in ctx.inputs


def load_models(ctx: StageContext, text: Text) -> Models:
    """Load policy, reference, reward and value model; freeze those that are not trained.

    The reference is where the first round's policy started, in every round: `init`, else the SFT
    model. With `ppo.restart: previous` the policy is the previous round's last one.

    Raises:
        StageFailed: the run has no reward model.
    """
    config, hardware = needed(ctx.spec.ppo), ctx.spec.hardware
    folder = reward_folder(ctx)
    if folder is None:
        raise StageFailed(
            "ppo: the run has no reward model; give models.reward_trained or a reward stage"
        )
    if continues(ctx):
        start = load_policy(ctx.inputs["learner"] / "policy", text, ctx.device)
    else:
        start = load_start(ctx, text)
    policy = Policy(start, text.vocab, hardware, config.temperature)
    reference = Policy(load_start(ctx, text), text.vocab, hardware, config.temperature)
    reward = Scorer(load_scalar(folder, text, ctx.device), hardware)
    for frozen in (reference.model, reward.model):
        frozen.requires_grad_(False)
    return Models(policy, reference, _value(ctx, text), reward)


def _value(ctx: StageContext, text: Text) -> Scorer:
    """The value function starts as the reward model (detail 17), in every round."""
    folder = reward_folder(ctx)
    if needed(ctx.spec.ppo).value.init == "reward" and folder is not None:
        return Scorer(load_scalar(folder, text, ctx.device), ctx.spec.hardware)
    start = sft_folder(ctx)
    if start is None:
        raise StageFailed("ppo.value.init is sft but no SFT model is on disk; set it to reward")
    head = Stream(ctx.spec.seed, "value head")
    return Scorer(make_scalar(start, text, head, ctx.device), ctx.spec.hardware)

"""Which steps of one shape (steps.py) a policy samples by, and what it keeps of them."""

from __future__ import annotations

from toolkit.models import recording
from toolkit.models.heads import Policy
from toolkit.models.recording import Lowered, warn
from toolkit.models.steps import Draw, Given, Steps

_ROOMS = 64  # positions that the lengths of a cache are multiples of
_FEWEST = 8  # tokens of an answer; recording a step takes as long as a few of them
_KEPT = 2  # lengths of a cache whose steps are kept for later batches


def wanted(policy: Policy, tokens: int) -> bool:
    """Say whether answers of so many tokens are to be drawn by recorded steps."""
    graphs = policy.hardware.cuda_graphs == "auto" and policy.device.type == "cuda"
    return graphs and tokens >= _FEWEST and policy.steps is not _NONE


def start(policy: Policy, draw: Draw, given: Given, tokens: int) -> Steps | None:
    """Return steps that hold the batch, recorded or ready to be replayed.

    None, and a warning the first time, where the model's steps cannot be recorded.

    Args:
        policy: the model; it keeps its steps for the next batch.
        draw: seed, sampling, end-of-text.
        given: the batch.
        tokens: the most that an answer has.
    """
    room = -(-(given.width + tokens) // _ROOMS) * _ROOMS
    try:
        if policy.steps is None:
            policy.steps = Recordings(Lowered(policy.model, policy.hardware))
        steps: Steps = policy.steps.steps_for(policy, draw, given, room)
        steps.load(policy, given)
    except Exception as error:  # whatever a model or the device cannot do
        policy.steps = _NONE
        warn(policy.model, error, "so answers are sampled without")
        return None
    return steps


class Recordings:
    """What a policy keeps from batch to batch: its steps, the last used at the end.

    Args:
        lowered: what they all compute with.
    """

    def __init__(self, lowered: Lowered) -> None:
        """Start with no steps."""
        self.lowered, self.kept = lowered, list[Steps]()
        self.pool = recording.new_pool()

    def steps_for(self, policy: Policy, draw: Draw, given: Given, room: int) -> Steps:
        """Return steps that take the batch, of before or new."""
        found = [steps for steps in self.kept if steps.fits(draw, given, room)]
        others = [s for s in self.kept if s.draw == draw and s.room != room]  # the rest goes
        self.kept = others[1 - _KEPT :]  # before new memory is taken
        self.kept += found or [Steps(policy, self.lowered, self.pool, draw, given, room)]
        return self.kept[-1]


_NONE = object()  # in the place of recordings: this model has none

"""Skills of the pretraining text that no prompt asks for, measured by greedy completion.

The stand-in for the paper's SQuAD and DROP: a text is cut before its last words, and the completion
is right when its first words are those.
"""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.data.tasks.base import Cloze, Task
from toolkit.data.tokenize import Text
from toolkit.models.heads import Policy
from toolkit.rollout import sample_answers
from toolkit.spec.errors import StageFailed
from toolkit.spec.schema import Sampling
from toolkit.training.random import Stream

_CHUNK = 256


def clozes(task: Task | None, count: int) -> list[Cloze]:
    """Return `count` texts of the task's skills; none when count is 0.

    Raises:
        StageFailed: the run has no task, or its task has no skills.
    """
    if count == 0:
        return []
    make = getattr(task, "skills", None)
    if make is None:
        name = "no task" if task is None else f"the task {task.name}, which has none"
        raise StageFailed(
            f"evaluate.skills asks for the task's skills, but the run has {name}; give the task a "
            "method skills(count), or set evaluate.skills: 0"
        )
    return list(make(count))


def complete(policy: Policy, text: Text, cases: Sequence[Cloze], stream: Stream) -> list[bool]:
    """Return of each text whether its greedy completion begins with the answer."""
    # a document of the pretraining stream follows the end of another
    beginnings = [[text.eos_id, *_ids(text, case.text)] for case in cases]
    order = sorted(range(len(cases)), key=lambda at: len(beginnings[at]))
    right: dict[int, bool] = {}
    for start in range(0, len(order), _CHUNK):
        places = order[start : start + _CHUNK]
        wanted = [_ids(text, cases[at].answer) for at in places]
        answers = sample_answers(
            policy,
            text,
            [beginnings[at] for at in places],
            sampling=Sampling(top_k=1),
            draws=(stream, "skill", places),
            max_response=max(map(len, wanted)),
        )
        for at, found, want in zip(places, answers.ids, wanted, strict=True):
            right[at] = found[: len(want)] == want
    return [right[at] for at in range(len(cases))]


def _ids(text: Text, document: str) -> list[int]:
    """Return the ids of a piece of text, without the end-of-text that closes a document."""
    return text.encode_documents([document])[0][:-1]


def shares(cases: Sequence[Cloze], right: Sequence[bool]) -> dict[str, float]:
    """Return the share of right completions, of all and of each skill: "skill", "skill/minus"."""
    groups = {"skill": list(right)}
    for case, done in zip(cases, right, strict=True):
        groups.setdefault(f"skill/{case.skill}", []).append(done)
    return {name: sum(values) / len(values) for name, values in groups.items()}

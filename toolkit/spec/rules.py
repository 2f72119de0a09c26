"""Contradictions between keys: a table of small functions, each one sentence with its fix.

A rule names the keys it reads; it is skipped when one of them is already wrong. It yields (keys to blame, message); the first of
those keys that somebody wrote is blamed, so that a default is never the culprit while a line of the user's is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from toolkit.spec.schema import Spec
from toolkit.spec.walk import Walker
from toolkit.spec.yaml_tree import Path_

Finding = tuple[tuple[str, ...], str]
Rule = Callable[[Spec], Iterator[Finding]]


@dataclass(frozen=True)
class _Entry:
    reads: tuple[Path_, ...]
    rule: Rule


RULES: list[_Entry] = []


def rule(*reads: str) -> Callable[[Rule], Rule]:
    """Register a rule that reads these keys."""

    def register(function: Rule) -> Rule:
        RULES.append(_Entry(tuple(tuple(path.split(".")) for path in reads), function))
        return function

    return register


def check_rules(spec: Spec, walker: Walker) -> None:
    """Run every rule whose keys are sound, and report what it finds."""
    from toolkit.spec import rules_models, rules_stages  # each registers its rules when imported

    assert rules_models and rules_stages
    already_broken = set(walker.broken)
    for entry in RULES:
        if any(_overlap(read, broken) for read in entry.reads for broken in already_broken):
            continue
        for blamed, message in entry.rule(spec):
            walker.add(_culprit(blamed, walker), message)


def _overlap(one: Path_, other: Path_) -> bool:
    shared = min(len(one), len(other))
    return one[:shared] == other[:shared]


def _culprit(blamed: tuple[str, ...], walker: Walker) -> Path_:
    paths = [tuple(path.split(".")) for path in blamed]
    return next((path for path in paths if path in walker.marks), paths[0])


@rule("data")
def task_replaces_files(spec: Spec) -> Iterator[Finding]:
    """A task makes its own data."""
    if spec.data.task is None:
        return
    for name in ("demonstrations", "prompts", "rankings", "pretrain"):
        if getattr(spec.data, name) is not None:
            message = "data.task makes its own data; remove this file, or the task"
            yield (f"data.{name}",), message


@rule("data.task")
def task_has_one_source(spec: Spec) -> Iterator[Finding]:
    """A task is embedded or the user's."""
    task = spec.data.task
    if task is None:
        return
    if task.name and task.fn:
        yield ("data.task.fn",), "give name (an embedded task) or fn (your generator), not both"
    elif not task.name and not task.fn:
        yield ("data.task",), "expected name (an embedded task: sort, facts) or fn (your generator)"


def collects(spec: Spec) -> bool:
    """Whether the run samples answers of its own to rank."""
    return spec.collect is not None and spec.models.reward_trained is None


@rule("data", "sft")
def sft_needs_demonstrations(spec: Spec) -> Iterator[Finding]:
    """Stage 1 reads demonstrations."""
    if spec.sft and not spec.data.task and not spec.data.demonstrations:
        fix = "add data.demonstrations, or a data.task, or set sft: null"
        yield ("sft", "data"), f"supervised fine-tuning needs demonstrations; {fix}"


@rule("data", "reward.center_on", "models.reward_trained")
def centring_needs_demonstrations(spec: Spec) -> Iterator[Finding]:
    """The scores are centred on demonstrations."""
    has = spec.data.task or spec.data.demonstrations
    if spec.reward.center_on and not has and not spec.sft and not spec.models.reward_trained:
        message = "centring needs data.demonstrations; add them, or set reward.center_on: null"
        yield ("reward.center_on", "reward", "data"), message


@rule("data", "collect", "ppo", "evaluate", "models.reward_trained")
def rollouts_need_prompts(spec: Spec) -> Iterator[Finding]:
    """Collect, PPO and evaluate answer prompts."""
    readers = [("collect", collects(spec)), ("ppo", spec.ppo), ("evaluate", spec.evaluate)]
    used = [name for name, on in readers if on]
    if used and not spec.data.task and not spec.data.prompts:
        message = f"{', '.join(used)} need prompts; add data.prompts or a data.task"
        yield ("data",), message


@rule("data", "pretrain", "ppo.ptx")
def pretraining_needs_text(spec: Spec) -> Iterator[Finding]:
    """The pretrain stage and the ptx term read pretraining text."""
    if spec.data.task or spec.data.pretrain:
        return
    if spec.pretrain:
        yield ("pretrain",), "needs pretraining text; add data.pretrain or a data.task"
    if spec.ppo and spec.ppo.ptx:
        yield ("ppo.ptx",), "needs pretraining text; add data.pretrain, or set ppo.ptx: null"


@rule("data.split", "data.task", "evaluate", "reward.gate")
def held_out_share_is_needed(spec: Spec) -> Iterator[Finding]:
    """Evaluation and the gate look at held-out records."""
    if spec.data.split.valid > 0 or spec.data.task:
        return
    for name, on in (("evaluate", spec.evaluate), ("reward.gate", spec.reward.gate)):
        if on:
            message = f"{name} looks at held-out records; give a share above 0, or set {name}: null"
            yield ("data.split.valid",), message


@rule("out")
def out_is_a_folder(spec: Spec) -> Iterator[Finding]:
    """The run folder can be made."""
    if not spec.out.strip():
        yield ("out",), "is empty; name a folder such as runs/${name}"
    elif Path(spec.out).exists() and not Path(spec.out).is_dir():
        yield ("out",), f'"{spec.out}" is a file; name a folder'


@rule("name")
def name_is_one_path_part(spec: Spec) -> Iterator[Finding]:
    """The name is used as a folder name."""
    if not spec.name.strip() or "/" in spec.name or spec.name in (".", ".."):
        yield ("name",), f'"{spec.name}" cannot be a folder name; use letters, digits and dashes'

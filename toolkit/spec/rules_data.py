"""Contradictions about data and the run folder. See rules.py for the form of a rule."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from toolkit.spec.rules import Finding, RuleTable
from toolkit.spec.schema import Spec

RULES = RuleTable()


@RULES.rule("data")
def task_replaces_files(spec: Spec) -> Iterator[Finding]:
    """A task makes its own data."""
    if spec.data.task is None:
        return
    for name in ("demonstrations", "prompts", "rankings", "pretrain"):
        if getattr(spec.data, name) is not None:
            message = "data.task makes its own data; remove this file, or the task"
            yield (f"data.{name}",), message


@RULES.rule("data.task")
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
    return spec.collect is not None and spec.ranks


@RULES.rule("data", "sft")
def sft_needs_demonstrations(spec: Spec) -> Iterator[Finding]:
    """Stage 1 reads demonstrations."""
    if spec.sft and not spec.data.task and not spec.data.demonstrations:
        fix = "add data.demonstrations, or a data.task, or set sft: null"
        yield ("sft", "data"), f"supervised fine-tuning needs demonstrations; {fix}"


@RULES.rule("data", "reward.center_on", "models.reward_trained")
def centring_needs_demonstrations(spec: Spec) -> Iterator[Finding]:
    """The scores are centred on demonstrations."""
    has = spec.data.task or spec.data.demonstrations
    if spec.reward.center_on and not has and not spec.sft and not spec.models.reward_trained:
        message = "centring needs data.demonstrations; add them, or set reward.center_on: null"
        yield ("reward.center_on", "reward", "data"), message


@RULES.rule("data", "collect", "ppo", "evaluate", "models.reward_trained")
def rollouts_need_prompts(spec: Spec) -> Iterator[Finding]:
    """Collect, PPO and evaluate answer prompts."""
    readers = [("collect", collects(spec)), ("ppo", spec.ppo), ("evaluate", spec.evaluate)]
    used = [name for name, on in readers if on]
    if used and not spec.data.task and not spec.data.prompts:
        message = f"{', '.join(used)} need prompts; add data.prompts or a data.task"
        yield ("data",), message


@RULES.rule("data", "pretrain", "ppo.ptx")
def pretraining_needs_text(spec: Spec) -> Iterator[Finding]:
    """The pretrain stage and the ptx term read pretraining text."""
    if spec.data.task or spec.data.pretrain:
        return
    if spec.pretrain:
        yield ("pretrain",), "needs pretraining text; add data.pretrain or a data.task"
    if spec.ppo and spec.ppo.ptx:
        yield ("ppo.ptx",), "needs pretraining text; add data.pretrain, or set ppo.ptx: null"


@RULES.rule("data.split", "data.task", "evaluate", "reward.gate")
def held_out_share_is_needed(spec: Spec) -> Iterator[Finding]:
    """Evaluation and the gate look at held-out records."""
    if spec.data.split.valid > 0 or spec.data.task:
        return
    for name, on in (("evaluate", spec.evaluate), ("reward.gate", spec.reward.gate)):
        if on:
            message = f"{name} looks at held-out records; give a share above 0, or set {name}: null"
            yield ("data.split.valid",), message


@RULES.rule("out")
def out_is_a_folder(spec: Spec) -> Iterator[Finding]:
    """The run folder can be made."""
    if not spec.out.strip():
        yield ("out",), "is empty; name a folder such as runs/${name}"
    elif Path(spec.out).exists() and not Path(spec.out).is_dir():
        yield ("out",), f'"{spec.out}" is a file; name a folder'


@RULES.rule("name")
def name_is_one_path_part(spec: Spec) -> Iterator[Finding]:
    """The name is used as a folder name."""
    if not spec.name.strip() or "/" in spec.name or spec.name in (".", ".."):
        yield ("name",), f'"{spec.name}" cannot be a folder name; use letters, digits and dashes'

"""From a spec to the stages that make it true, in order. Pure: reads no file.

    data -> pretrain -> sft -> collect.1 -> label.1 -> reward.1 -> LEARNER.1 -> evaluate, export

LEARNER is the stage that improves the policy; who reads it finds it under the key "learner".
A stage's result is a function of what its node names: a slice of the spec, files, and the results
it reads. What is not named here must not be read by the stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from toolkit.spec.schema import LEARNERS, ModelFolder, ModelSource, Spec

LEARNER = "learner"
"""Key of Node.inputs under which evaluate, export and collect find a learner's folder."""

VERSIONS: Mapping[str, int] = {
    "data": 1,
    "pretrain": 3,
    "sft": 3,
    "collect": 2,
    "label": 1,
    "reward": 3,
    "ppo": 3,
    "evaluate": 3,
    "export": 2,
}
"""Raised by hand when a stage's code changes what it computes; older results then run again."""

READS: Mapping[str, tuple[str, ...]] = {
    "data": (),
    "pretrain": ("data",),
    "sft": ("data", "pretrain"),
    "collect": ("data", "pretrain", "sft"),
    "label": ("data", "collect"),
    "reward": ("data", "pretrain", "sft", "label"),
    "ppo": ("data", "pretrain", "sft", "reward"),
    "evaluate": ("data", "pretrain", "sft", "label", "reward", LEARNER),
    "export": ("data", "pretrain", "sft", "reward", LEARNER),
}
"""Stage kind -> kinds whose folders it reads, where the run has them; any learner is LEARNER."""

SLICES: Mapping[str, tuple[str, ...]] = {
    "data": ("data", "text", "models.base.path"),
    "pretrain": ("pretrain", "models.base"),
    "sft": ("sft", "models.base", "text"),
    "collect": ("collect", "models.base", "text"),
    "label": ("label", "data.task"),
    "reward": ("reward", "models.base", "models.reward", "text"),
    "ppo": ("ppo", "models", "text", "label.fn", "data.task"),
    "evaluate": ("evaluate", "models", "text", "label.fn", "data.task"),
    "export": ("export", "models", "name"),
}
"""Stage kind -> spec paths its result depends on, besides seed and hardware."""

OUTSIDE_KEYS = ("reward.gate",)
"""Paths inside a slice that judge a result without changing it: moving a gate trains nothing."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One stage of a run.

    Args:
        name: folder name, such as "ppo.1".
        kind: stage file, such as "ppo".
        round: 1-based for collect, label, reward and the learner; 0 for the others.
        inputs: stage kind, or LEARNER, -> name of the stage it reads.
        version: VERSIONS[kind].
        paths: spec paths the result depends on.
        files: files and model folders whose content the result depends on.
        functions: plug-ins, `path/to/file.py:function` or `package.module:function`.
        computes: whether device, precision, threads and kernels can change the result.
    """

    name: str
    kind: str
    round: int
    inputs: Mapping[str, str]
    version: int
    paths: tuple[str, ...]
    files: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    computes: bool = field(default=True)


def kinds(spec: Spec) -> list[str]:
    """Return the stage kinds the spec asks for, in the order they run."""
    chosen = ["data"]
    if spec.pretrain is not None:
        chosen.append("pretrain")
    if spec.sft is not None:
        chosen.append("sft")
    if spec.models.reward_trained is None:
        chosen += (["collect"] if spec.collect is not None else []) + ["label", "reward"]
    if spec.learner is not None:
        chosen.append(spec.learner)
    if spec.evaluate is not None:
        chosen.append("evaluate")
    if spec.export is not None:
        chosen.append("export")
    return chosen


def build_graph(spec: Spec) -> list[Node]:
    """Return the stages of `spec` in an order in which every stage follows its inputs."""
    nodes: list[Node] = []
    names: dict[str, str] = {}
    for kind in kinds(spec):
        number = 1 if kind in ("collect", "label", "reward", *LEARNERS) else 0
        name = f"{kind}.{number}" if number else kind
        nodes.append(
            Node(
                name=name,
                kind=kind,
                round=number,
                inputs={read: names[read] for read in READS[kind] if read in names},
                version=VERSIONS[kind],
                paths=SLICES[kind],
                files=tuple(dict.fromkeys(_files(spec, kind))),
                functions=tuple(dict.fromkeys(_functions(spec, kind))),
                computes=kind not in ("data", "export")
                and not (kind == "label" and spec.label.by != "model"),
            )
        )
        names[LEARNER if kind in LEARNERS else kind] = name
    return nodes


def select(nodes: list[Node], until: str | None) -> list[Node]:
    """Return the nodes up to the last one named `until` (a name or a kind); all when None.

    Raises:
        ValueError: no stage of the run has that name.
    """
    if until is None:
        return nodes
    last = [i for i, node in enumerate(nodes) if until in (node.name, node.kind)]
    if not last:
        names = ", ".join(node.name for node in nodes)
        raise ValueError(f"this run has no stage {until!r}; its stages are {names}")
    return nodes[: last[-1] + 1]


def _files(spec: Spec, kind: str) -> Iterable[str]:
    base = _folder(spec.models.base)
    if kind == "data":
        yield from _data_files(spec)
        if spec.text.template is not None and spec.text.template.endswith(".jinja"):
            yield spec.text.template
        yield from [spec.text.tokenizer] if spec.text.tokenizer else base
    elif kind == "label":
        yield from _folder(spec.label.model)
    else:
        yield from base
    if kind == "collect" and spec.collect is not None:
        yield from (s for s in spec.collect.sources if s not in ("base", "sft", "ppo"))
    if kind in ("reward", "ppo"):
        yield from _folder(spec.models.reward)
    if kind in ("ppo", "evaluate", "export"):
        yield from _folder(spec.models.reward_trained)


def _data_files(spec: Spec) -> Iterable[str]:
    data = spec.data
    for source in (data.demonstrations, data.prompts, data.rankings, data.pretrain):
        if source is not None and source.path:
            yield source.path


def _folder(model: ModelSource | ModelFolder | None) -> list[str]:
    return [model.path] if model is not None and model.path else []


def _functions(spec: Spec, kind: str) -> Iterable[str]:
    task = spec.data.task.fn if spec.data.task else None
    if kind in ("data", "label", "ppo", "evaluate") and task:
        yield task
    if kind in ("label", "ppo", "evaluate") and spec.label.fn:
        yield spec.label.fn
    extra = spec.ppo.extra_reward if spec.ppo else None
    if kind == "ppo" and extra is not None:
        yield extra.fn

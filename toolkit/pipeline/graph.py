"""From a spec to the stages that make it true, in order. Pure: reads no file.

    data -> pretrain -> sft -> init -> for each round r: collect.r -> label.r -> reward.r
         -> select (once, after reward.1) -> LEARNER.r
         with folds beside the last round's reward model, where asked for
         and a reward model only where something reads it (Spec.reward_rounds)
    -> evaluate, export

LEARNER is the stage that improves the policy; who reads it finds it under the key "learner".
After `select`, the key "sft" names its folder: the chosen epoch is the SFT model from there on.
A stage's result is a function of what its node names: a slice of the spec, files, and the results
it reads. What is not named here must not be read by the stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from toolkit.spec.labels import own_rankings
from toolkit.spec.schema import LEARNERS, ModelFolder, ModelSource, Spec

LEARNER = "learner"
"""Key of Node.inputs under which evaluate, export and collect find a learner's folder."""

VERSIONS: Mapping[str, int] = {
    "data": 2,
    "pretrain": 4,
    "sft": 4,
    "init": 2,
    "collect": 4,
    "label": 3,
    "reward": 6,
    "folds": 3,
    "select": 2,
    "ppo": 4,
    "dpo": 1,
    "kto": 1,
    "evaluate": 8,
    "export": 2,
}
"""Raised by hand when a stage's code changes what it computes; older results then run again."""

READS: Mapping[str, tuple[str, ...]] = {
    "data": (),
    "pretrain": ("data",),
    "sft": ("data", "pretrain"),
    "init": ("data", "pretrain"),
    "collect": ("data", "pretrain", "sft", LEARNER),
    "label": ("data", "collect", "label"),
    "reward": ("data", "pretrain", "sft", "label"),
    "folds": ("data", "pretrain", "sft", "label"),
    "select": ("data", "sft", "reward"),
    "ppo": ("data", "pretrain", "sft", "init", "reward", LEARNER),
    "dpo": ("data", "pretrain", "sft", "label"),
    "kto": ("data", "pretrain", "sft", "label"),
    "evaluate": ("data", "pretrain", "sft", "init", "label", "reward", LEARNER),
    "export": ("data", "pretrain", "sft", "reward", LEARNER),
}
"""Stage kind -> kinds whose newest folders it reads, where there are such; a learner is LEARNER."""

SLICES: Mapping[str, tuple[str, ...]] = {
    "data": ("data", "text", "models.base.path"),
    "pretrain": ("pretrain", "models.base"),
    "sft": ("sft", "models.base", "text"),
    "init": ("ppo.init", "sft.loss_on", "models.base", "text"),
    "collect": ("collect", "models.base", "text"),
    "label": ("label", "data.task"),
    "reward": ("reward", "models.base", "models.reward", "text"),
    "folds": ("folds", "reward", "models.base", "models.reward", "text"),
    "select": ("sft.select_prompts", "models.reward_trained", "text"),
    "ppo": ("ppo", "models", "text", "label.fn", "data.task"),
    "dpo": ("dpo", "models.base", "text", "data.split.valid"),
    "kto": ("kto", "models.base", "text", "data.split.valid"),
    "evaluate": ("evaluate", "models", "text", "label.fn", "data.task"),
    "export": ("export", "models", "name"),
}
"""Stage kind -> spec paths its result depends on, besides seed and hardware."""

FIRST_ROUND_IGNORES = ("collect.sources.ppo", "ppo.restart")
"""Paths that matter from the second round on: changing them keeps the first."""

IGNORES: Mapping[str, tuple[str, ...]] = {
    "sft": ("sft.select_prompts",),
    "label": ("label.file", "label.overlap", "label.quorum"),
}
"""Stage kind -> paths inside its slice that another stage reads, or that its files stand for."""

OUTSIDE_KEYS = ("reward.gate",)
"""Paths inside a slice that judge a result without changing it: moving a gate trains nothing."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One stage of a run.

    Args:
        name: folder name, such as "ppo.1".
        kind: stage file, such as "ppo".
        round: 1-based for collect, label, reward and the learner; 0 for the others.
        inputs: stage kind, or LEARNER, -> name of the stage it reads; evaluate has those of every
            round too, such as "reward.1" and "learner.1".
        version: VERSIONS[kind].
        paths: spec paths the result depends on.
        ignored: paths below those that it does not depend on.
        files: files and model folders whose content the result depends on.
        own: such files of the run folder that no stage writes, by their names in it.
        functions: plug-ins, `path/to/file.py:function` or `package.module:function`.
        computes: whether device, precision, threads and kernels can change the result.
    """

    name: str
    kind: str
    round: int
    inputs: Mapping[str, str]
    version: int
    paths: tuple[str, ...]
    ignored: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    computes: bool = field(default=True)


def stages(spec: Spec) -> list[tuple[str, int]]:
    """Return (stage kind, round) of what the spec asks for, in the order it runs; round 0: none."""
    start = {"pretrain": spec.pretrain, "sft": spec.sft, "init": spec.ppo and spec.ppo.init}
    chosen = [("data", 0), *((kind, 0) for kind, section in start.items() if section)]
    for number in range(1, spec.rounds + 1):
        chosen += [(kind, number) for kind in _ranking(spec, number)]
        if number == spec.rounds and spec.folds is not None:
            chosen.append(("folds", 0))
        if number == 1 and spec.sft is not None and spec.sft.select == "reward":
            chosen.append(("select", 0))
        if spec.learner is not None:
            chosen.append((spec.learner, number))
    end = {"evaluate": spec.evaluate, "export": spec.export}
    return chosen + [(kind, 0) for kind, section in end.items() if section]


def _ranking(spec: Spec, number: int) -> list[str]:
    """Return the kinds of stages of a round that lead to rankings, and to a reward model."""
    labels = (["collect"] if spec.collect is not None else []) + ["label"]
    reward = ["reward"] if number in spec.reward_rounds else []
    return (labels if spec.ranks else []) + reward


def build_graph(spec: Spec) -> list[Node]:
    """Return the stages of `spec` in an order in which every stage follows its inputs."""
    nodes: list[Node] = []
    newest: dict[str, str] = {}
    for kind, number in stages(spec):
        name = f"{kind}.{number}" if number else kind
        first = FIRST_ROUND_IGNORES if number == 1 else ()
        nodes.append(
            Node(
                name=name,
                kind=kind,
                round=number,
                inputs=_inputs(spec, kind, newest, nodes),
                version=VERSIONS[kind],
                paths=SLICES[kind],
                ignored=(*IGNORES.get(kind, ()), *first),
                files=tuple(dict.fromkeys(_files(spec, kind))),
                own=tuple(_own(spec, kind, name)),
                functions=tuple(dict.fromkeys(_functions(spec, kind))),
                computes=kind not in ("data", "export")
                and not (kind == "label" and spec.label.by != "model"),
            )
        )
        newest["sft" if kind == "select" else _key(kind)] = name
    return nodes


def _key(kind: str) -> str:
    return LEARNER if kind in LEARNERS else kind


def _inputs(spec: Spec, kind: str, newest: Mapping[str, str], before: list[Node]) -> dict[str, str]:
    """Return what a stage reads of the newest of each kind; for evaluate also of every round."""
    reads = set(READS[kind])
    if kind == "collect" and spec.collect is not None and not spec.collect.sources.get("ppo"):
        reads.discard(LEARNER)
    if kind == "ppo" and spec.ppo is not None and spec.ppo.restart == "init":
        reads.discard(LEARNER)
    found = {key: newest[key] for key in READS[kind] if key in reads and key in newest}
    if kind == "evaluate" and spec.rounds > 1:
        rounds = [n for n in before if _key(n.kind) in ("reward", LEARNER)]
        found |= {f"{_key(n.kind)}.{n.round}": n.name for n in rounds}
    return found


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
        yield from [spec.label.file] if spec.label.file else []
    elif kind != "select":
        yield from base
    if kind == "collect" and spec.collect is not None:
        yield from (s for s in spec.collect.sources if s not in ("base", "sft", "ppo"))
    if kind in ("reward", "folds", "ppo"):
        yield from _folder(spec.models.reward)
    if kind in ("select", "ppo", "evaluate", "export"):
        yield from _folder(spec.models.reward_trained)


def _own(spec: Spec, kind: str, name: str) -> Iterable[str]:
    if kind == "label" and spec.label.by == "people" and spec.label.file is None:
        yield own_rankings(name)


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

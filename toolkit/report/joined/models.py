"""Which models several runs hold, under one name each, and what every one did on every prompt.

Runs share models: the SFT model of a sweep is one model in many runs. Two models are the same when
the stages they came from have the same key. A run's own policy is called by the run's name; what
several runs share keeps its plain name (base, prompted, sft); the same word for another model gets
its run's name in front, such as "large sft".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from toolkit.report.load import Record, Run, read_lines
from toolkit.spec.errors import ToolkitError

Identity = tuple[str, ...]
Value = TypeVar("Value", float, bool)


@dataclass(frozen=True)
class Entry:
    """One model in one run.

    Args:
        run: the run.
        word: what evaluation.json calls it.
        own: whether it is the run's policy, with the weights that decide.
        identity: equal for the same model in another run.
    """

    run: Run
    word: str
    own: bool
    identity: Identity


@dataclass(frozen=True)
class Joined:
    """All models of several runs.

    Args:
        runs: in the order given.
        labels: (run folder, word) -> the model's one name.
        order: names, in the order they appear.
        prompts: (seed, prompt) -> name -> the oracle's score.
        texts: (seed, skill, text) -> name -> whether it was completed rightly.
        figures: name -> seed -> figures as in evaluation.json.
        groups: (seed, prompt) -> what it asks; prompts of one group count as one in intervals.
        judge: whose scores compare the models: "oracle", or "reward" where no run has an oracle.
    """

    runs: tuple[Run, ...]
    labels: Mapping[tuple[str, str], str]
    order: tuple[str, ...]
    prompts: Mapping[tuple[int, str], dict[str, float]]
    texts: Mapping[tuple[int, str, str], dict[str, bool]]
    figures: Mapping[str, dict[int, Record]]
    groups: Mapping[tuple[int, str], tuple[int, str]]
    judge: str = field(default="oracle")


def join(runs: Sequence[Run]) -> Joined:
    """Name the models of all runs and collect their verdicts.

    Raises:
        ToolkitError: two runs of one name and seed hold different policies, or the same model has
            two verdicts on one prompt, or some runs have an oracle and others none.
    """
    entries = [entry for run in runs for entry in _entries(run)]
    names = _names(entries)
    labels = {(str(e.run.folder), e.word): names[e.run.spec.name, e.word] for e in entries}
    judge = _judge(runs)
    prompts: dict[tuple[int, str], dict[str, float]] = {}
    texts: dict[tuple[int, str, str], dict[str, bool]] = {}
    figures: dict[str, dict[int, Record]] = {}
    groups: dict[tuple[int, str], tuple[int, str]] = {}
    for entry in entries:
        label, seed = labels[str(entry.run.folder), entry.word], entry.run.spec.seed
        held = _evaluation(entry.run)["models"][entry.word]
        figures.setdefault(label, {}).setdefault(seed, held)
    for run in runs:
        for row in _rows(run, "answers.jsonl"):
            place = (run.spec.seed, str(row["prompt"]))
            groups[place] = (run.spec.seed, str(row.get("group", row["prompt"])))
            into = prompts.setdefault(place, {})
            _add(into, run, {w: m[judge] for w, m in row["models"].items()}, labels)
        for row in _rows(run, "skills.jsonl"):
            text = (run.spec.seed, str(row["skill"]), str(row["text"]))
            _add(texts.setdefault(text, {}), run, row["models"], labels)
    order = tuple(dict.fromkeys(labels.values()))
    return Joined(tuple(runs), labels, order, prompts, texts, figures, groups, judge)


def _add(
    into: dict[str, Value],
    run: Run,
    models: Mapping[str, Value],
    labels: Mapping[tuple[str, str], str],
) -> None:
    for word, value in models.items():
        label = labels.get((str(run.folder), word))
        if label is None:
            continue
        if into.setdefault(label, value) != value:
            raise ToolkitError(
                f"{run.folder}: {label} has another verdict on a prompt or a text than in the runs "
                "before; runs that are joined must share evaluate's settings, version and machine"
            )


def _evaluation(run: Run) -> Record:
    return run.read("evaluate", "evaluation.json")


def _rows(run: Run, file: str) -> list[Record]:
    stage = run.last("evaluate")
    return read_lines(stage.folder / file) if stage.folder and stage.state == "done" else []


def _judge(runs: Sequence[Run]) -> str:
    found = {
        "oracle" if "oracle" in figures else "reward": run
        for run in runs
        for figures in (_evaluation(run).get("models") or {}).values()
    }
    if len(found) > 1:
        raise ToolkitError(
            f"{found['reward'].folder} has no oracle and {found['oracle'].folder} has one: their "
            "models cannot be compared; report runs of one task"
        )
    return next(iter(found), "oracle")


def _entries(run: Run) -> Iterable[Entry]:
    """Yield the models of a run's evaluation; of the last policy only the deciding weights."""
    evaluation = _evaluation(run)
    inputs = (run.last("evaluate").done.get("parts") or {}).get("inputs") or {}
    learner = run.spec.learner
    decider = f"{learner}_{evaluation.get('weights')}"
    for word in evaluation.get("models") or {}:
        if learner is not None and word in (f"{learner}_ema", f"{learner}_last"):
            if word == decider:
                yield Entry(run, word, True, (str(inputs.get("learner")), decider))
        else:
            yield Entry(run, word, False, _identity(run, word, inputs))


def _identity(run: Run, word: str, inputs: Mapping[str, str]) -> Identity:
    base = str(inputs.get("pretrain") or run.spec.models.base)
    evaluate = run.spec.evaluate
    if word == "base":
        return (base,)
    if word == "prompted":
        return (base, "prompted", str(evaluate.shots if evaluate else 0))
    if "." in word:
        return (str(inputs.get("learner." + word.rpartition(".")[2])),)
    return (str(inputs.get(word) or base),)


def _names(entries: Sequence[Entry]) -> dict[tuple[str, str], str]:
    """Return (run name, word) -> the one name of that model."""
    held: dict[tuple[str, str], dict[int, Identity]] = {}
    for entry in entries:
        own = held.setdefault((entry.run.spec.name, entry.word), {})
        seed = entry.run.spec.seed
        if own.setdefault(seed, entry.identity) != entry.identity:
            raise ToolkitError(
                f"{entry.run.folder}: another run of the name {entry.run.spec.name} and seed "
                f"{seed} holds another {entry.word}; give the runs names of their own"
            )
    found = {(e.run.spec.name, e.word): e.run.spec.name for e in entries if e.own}
    for word in dict.fromkeys(e.word for e in entries if not e.own):
        groups = _groups({name: ids for (name, other), ids in held.items() if other == word})
        largest = max(map(len, groups))
        plain = [g for g in groups if len(g) == largest]
        for group in groups:
            shared = plain == [group]
            found |= {(name, word): word if shared else f"{group[0]} {word}" for name in group}
    return found


def _groups(held: Mapping[str, Mapping[int, Identity]]) -> list[list[str]]:
    """Put run names together whose models are the same in every seed that both have."""
    groups: list[list[str]] = []
    for name, ids in held.items():
        same = (g for g in groups if _same(ids, held[g[0]]))
        group = next(same, None)
        if group is None:
            groups.append([name])
        else:
            group.append(name)
    return groups


def _same(one: Mapping[int, Identity], other: Mapping[int, Identity]) -> bool:
    common = one.keys() & other.keys()
    return bool(common) and all(one[seed] == other[seed] for seed in common)

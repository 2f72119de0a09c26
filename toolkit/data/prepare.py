"""Records to token ids, training and held-out; every rule that drops a record counts it.

What a file's records must pass first stands in `rules`. A record is held out when blake2b(seed,
its user, or its prompt where it has no user) falls below `data.split.valid`. So the division
depends on no order, the same user or prompt falls on the same side in every file, and a training
prompt that is held out under another user is dropped. A task divides its own prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from toolkit.data.contradictions import contradictions
from toolkit.data.encode import BadText, Tokenized, encode_record
from toolkit.data.formats import (
    Read,
    read_demonstrations,
    read_prompts,
    read_rankings,
    settings_of,
    shorten,
)
from toolkit.data.records import Record
from toolkit.data.rules import apply_rules, prompt_key
from toolkit.data.seeds import share
from toolkit.data.tasks.base import EOS, Example, Task
from toolkit.data.template import Template, make_template
from toolkit.data.tokenize import Text, load_text, make_text
from toolkit.spec.errors import DataError, Problem, SpecError
from toolkit.spec.schema import Spec

Side = Literal["train", "valid"]

HELD_OUT = "prompt also held out"


@dataclass
class Prepared:
    """What the data stage writes, pretraining text aside.

    Args:
        records: kind -> side -> records; kinds are demonstrations, prompts and rankings, whose only
            side is "all".
        counts: kind -> read, kept, train, valid, and each rule's drops.
        warnings: sentences a user should read.
    """

    records: dict[str, dict[str, list[Tokenized]]] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass
class _Part:
    kind: str
    found: Read[Record]
    sides: list[Side]


def load_run_text(spec: Spec, task: Task | None = None) -> Text:
    """Return the run's tokenizer and template.

    The tokenizer is text.tokenizer, else the base model's, else the task's.

    Raises:
        SpecError: there is none of the three, or the template is wrong.
        DataError: the folder holds no usable tokenizer.
    """
    folder = spec.text.tokenizer or spec.models.base.path
    default = task.template if task is not None else None
    if folder is not None:
        return load_text(folder, spec.text, default)
    if task is None:
        fix = "set text.tokenizer to a tokenizer folder, or models.base.path to a model with one"
        raise SpecError([Problem("spec", 0, 0, "text.tokenizer", f"there is no tokenizer; {fix}")])
    template: Template = make_template(spec.text.template, default=default)
    return make_text(task.tokenizer(), template, EOS)


def load_task(spec: Spec) -> Task | None:
    """Return the run's task, or None when it reads files."""
    if spec.data.task is None:
        return None
    from toolkit.data.tasks import make_task

    return make_task(spec.data.task)


def prepare(spec: Spec, text: Text, task: Task | None = None) -> Prepared:
    """Read, check, tokenize and divide demonstrations, prompts and rankings.

    Args:
        spec: the resolved spec.
        text: the run's tokenizer and template.
        task: the run's task; None reads the files of `spec.data`.

    Raises:
        DataError: every problem of every file.
    """
    parts = _task_parts(spec, task) if task is not None else _file_parts(spec)
    problems = [problem for part in parts for problem in part.found.problems]
    out = Prepared(warnings=[note for part in parts for note in part.found.notes])
    held = {
        prompt_key(spec.data, record.prompt)
        for part in parts
        for record, side in zip(part.found.records, part.sides, strict=True)
        if side == "valid"
    }
    for part in parts:
        problems += _tokenize_part(spec, text, part, held, out)
    if not problems:
        problems = _left_empty(parts, out) + _none_held_out(spec, parts, out)
    if problems:
        raise DataError(problems)
    out.warnings += _warnings(text, out)
    return out


def _task_parts(spec: Spec, task: Task) -> list[_Part]:
    examples = task.demonstrations()
    held = task.valid_demonstrations(round(spec.data.split.valid * len(examples)))

    def part(kind: str, train: list[Record], valid: list[Record]) -> _Part:
        sides: list[Side] = [*["train"] * len(train), *["valid"] * len(valid)]  # type: ignore[list-item]
        records = train + valid
        return _Part(kind, Read(f"task {task.name}", records, len(records)), sides)

    def demonstrate(pairs: list[Example]) -> list[Record]:
        return [Record(0, prompt, (response,)) for prompt, response in pairs]

    return [
        part("demonstrations", demonstrate(examples), demonstrate(held)),
        part(
            "prompts",
            [Record(0, p) for p in task.prompts()],
            [Record(0, p) for p in task.valid_prompts()],
        ),
    ]


def _file_parts(spec: Spec) -> list[_Part]:
    readers: dict[str, Callable[[Any], Read[Record]]] = {
        "demonstrations": read_demonstrations,
        "prompts": read_prompts,
        "rankings": read_rankings,
    }
    parts = []
    for kind, read in readers.items():
        file = getattr(spec.data, kind)
        if file is not None:
            found = apply_rules(spec.data, read(settings_of(file)))
            if kind == "rankings":
                found.notes += contradictions(file.path, found.records)
            parts.append(_Part(kind, found, [side_of(spec, record) for record in found.records]))
    return parts


def side_of(spec: Spec, record: Record) -> Side:
    """Say on which side of the split a file's record falls."""
    by_user = spec.data.split.by == "user" and record.user is not None
    owner = ("user", record.user) if by_user else ("prompt", prompt_key(spec.data, record.prompt))
    return "valid" if share(spec.seed, "split", *owner) < spec.data.split.valid else "train"


def _tokenize_part(
    spec: Spec, text: Text, part: _Part, held: set[str], out: Prepared
) -> list[Problem]:
    sides: dict[str, list[Tokenized]] = {"train": [], "valid": []}
    dropped = Counter(part.found.dropped)
    problems = []
    for record, side in zip(part.found.records, part.sides, strict=True):
        if side == "train" and prompt_key(spec.data, record.prompt) in held:
            if part.kind != "rankings":
                dropped[HELD_OUT] += 1
                continue
            side = "valid"
        try:
            tokenized = encode_record(spec, text, record, dropped)
        except BadText as error:
            problems.append(Problem(part.found.file, record.line, 0, error.field, str(error)))
            continue
        if tokenized is not None:
            sides[side].append(tokenized)
    if part.kind == "rankings":
        rows = [row | {"split": side} for side, rows in sides.items() for row in rows]
        out.records["rankings"] = {"all": rows}
    else:
        out.records[part.kind] = sides
    kept = {side: len(rows) for side, rows in sides.items()}
    out.counts[part.kind] = {"read": part.found.read, "kept": sum(kept.values()), **kept, **dropped}
    return shorten(problems)


def _left_empty(parts: Iterable[_Part], out: Prepared) -> list[Problem]:
    problems = []
    for part in parts:
        counts = out.counts[part.kind]
        if (counts["train"] == 0 and part.kind != "rankings") or counts["kept"] == 0:
            left = "nothing is left" if counts["kept"] == 0 else "nothing is left to train on"
            message = (
                f"{left} of {part.kind}: {summary_of(counts)}; relax the rule that dropped them"
            )
            problems.append(Problem(part.found.file, 0, 0, "", message))
    return problems


def summary_of(counts: dict[str, int]) -> str:
    """Write counts as `12 read, 10 train, 1 valid, 1 prompt over 16 tokens`."""
    return ", ".join(f"{count} {name}" for name, count in counts.items() if name != "kept")


def _none_held_out(spec: Spec, parts: Iterable[_Part], out: Prepared) -> list[Problem]:
    """Without held-out prompts the last stage could not compare anything."""
    if spec.evaluate is None:
        return []
    message = (
        "no prompts are held out, so nothing can be evaluated; raise data.split.valid, give more "
        "prompts, or set evaluate: null"
    )
    empty = [p for p in parts if p.kind == "prompts" and out.counts[p.kind]["valid"] == 0]
    return [Problem(part.found.file, 0, 0, "", message) for part in empty]


def _warnings(text: Text, out: Prepared) -> list[str]:
    """Say what was dropped, what has no held-out records, and whether the tokenizer loses text."""
    said = []
    for kind, counts in out.counts.items():
        rules = {
            k: v for k, v in counts.items() if v and k not in ("read", "kept", "train", "valid")
        }
        if rules:
            said.append(f"{kind}: dropped " + ", ".join(f"{v} {k}" for k, v in rules.items()))
    shown = out.records.get("demonstrations", {}).get("train", [])[:32]
    lossy = next((row["response"] for row in shown if not text.round_trips(row["response"])), None)
    if lossy is not None:
        said.append(
            f"the tokenizer changes text on its way through token ids, such as {lossy[:60]!r}"
        )
    return said

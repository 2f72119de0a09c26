"""What `check` and `plan` know of the data, without torch: counts and problems.

The answer is kept under a digest of everything it depends on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from toolkit.spec.errors import DataError, Problem, SpecError
from toolkit.spec.schema import Spec

VERSION = 4
"""Part of every cached answer's name; raised when the rules change."""


@dataclass
class Scan:
    """What the data holds.

    Args:
        counts: kind -> read, kept, train, valid and each rule's drops; pretrain: read, characters.
        problems: everything wrong; nothing can run while there is one.
        warnings: sentences a user should read.
        cached: whether this answer was kept from an earlier scan.
    """

    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    cached: bool = False


def scan(spec: Spec) -> Scan:
    """Read, check, tokenize and count a run's data; an answer without problems is kept.

    Args:
        spec: the resolved spec.
    """
    beside = cache_folder() / f"{_key(spec)}.json"
    try:
        return Scan(**json.loads(beside.read_text(encoding="utf-8")), cached=True)
    except (OSError, ValueError, TypeError):
        found = _scan(spec)
    if not found.problems:
        _keep(beside, found)
    return found


def cache_folder() -> Path:
    """Return where scans are kept: rlhf-toolkit/scan in XDG_CACHE_HOME, by default ~/.cache."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "rlhf-toolkit" / "scan"


def _scan(spec: Spec) -> Scan:
    from toolkit.data.prepare import load_run_text, load_task, prepare
    from toolkit.data.pretrain_text import load_documents

    found = Scan()
    task = None
    try:
        task = load_task(spec)
        prepared = prepare(spec, load_run_text(spec, task), task)
        found.counts, found.warnings = dict(prepared.counts), list(prepared.warnings)
        found.problems += _too_few_labelers(spec, prepared.records)
    except (DataError, SpecError) as error:
        found.problems += error.problems
    except Exception as error:
        found.problems.append(_raised_by_a_task(spec, error))
    _scan_people(spec, found)
    if task is None:
        try:
            documents, counts = load_documents(spec)
            if counts:
                found.counts["pretrain"] = counts | {"characters": sum(map(len, documents))}
        except DataError as error:
            found.problems += error.problems
    return found


def _scan_people(spec: Spec, found: Scan) -> None:
    """Check the form of people's rankings; what they rank is known when it has been collected."""
    from toolkit.data.contradictions import contradictions
    from toolkit.data.formats import read_collected_rankings

    if spec.label.file is None:
        return
    read = read_collected_rankings(spec.label.file)
    found.problems += read.problems
    found.warnings += contradictions(spec.label.file, read.records)
    found.counts["label.file"] = {"read": read.read, "kept": len(read.records)}


def _raised_by_a_task(spec: Spec, error: Exception) -> Problem:
    """Return the problem that your own task has; an error of anybody else is raised again."""
    from toolkit.data.oracle import raised

    if spec.data.task is None or spec.data.task.fn is None:
        raise error
    message = f"{raised(spec.data.task.fn, error)}; mend it"
    return Problem("spec", 0, 0, "data.task.fn", message)


def _too_few_labelers(spec: Spec, records: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    """Folds over the labelers of a file, where nobody else ranks, need one for each group."""
    file = spec.data.rankings
    if spec.folds is None or file is None or _others_rank(spec):
        return
    rows = records.get("rankings", {}).get("all", [])
    names = {row["labeler"] for row in rows if "labeler" in row}
    if len(names) < spec.folds.count:
        message = (
            f"folds.count {spec.folds.count} asks for as many labelers, and the records name "
            f"{len(names)}; give each record its labeler, or lower folds.count"
        )
        yield Problem(file.path, 0, 0, "labeler", message)


def _others_rank(spec: Spec) -> bool:
    return spec.label.labelers is not None or spec.label.by == "people"


def _keep(beside: Path, found: Scan) -> None:
    """Write the answer whole or not at all; without a writable cache the next scan runs again."""
    value = asdict(found)
    del value["cached"], value["problems"]
    new = beside.with_suffix(f".{os.getpid()}")
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    try:
        new.write_text(json.dumps(value), encoding="utf-8")
        new.replace(beside)
    except OSError:
        new.unlink(missing_ok=True)


def _key(spec: Spec) -> str:
    """Return a digest of what the answer depends on: settings, and the contents of every file."""
    asked = [spec.evaluate is not None, spec.folds and spec.folds.count, _others_rank(spec)]
    settings = json.dumps(
        [VERSION, spec.seed, asdict(spec.data), asdict(spec.text), spec.models.base.path, asked],
        sort_keys=True,
    )
    whole = hashlib.blake2b(settings.encode(), digest_size=16)
    for path in _files(spec):
        whole.update(f"{path}\0{path.stat().st_size if path.is_file() else -1}\0".encode())
        if path.is_file():
            with path.open("rb") as stream:
                while block := stream.read(1 << 20):
                    whole.update(block)
    return whole.hexdigest()


def _files(spec: Spec) -> Iterator[Path]:
    data = spec.data
    files: list[Any] = [data.demonstrations, data.prompts, data.rankings, data.pretrain]
    for name in (*(file.path for file in files if file is not None), spec.label.file):
        if name is not None:
            path = Path(name)
            yield from sorted(path.rglob("*")) if path.is_dir() else [path]
    if spec.data.task is not None and spec.data.task.fn is not None:
        yield Path(spec.data.task.fn.rpartition(":")[0])
    if spec.text.template is not None and spec.text.template.endswith(".jinja"):
        yield Path(spec.text.template)
    folder = spec.text.tokenizer or spec.models.base.path
    if folder is not None:
        for pattern in (
            "tokenizer*.json",
            "special_tokens_map.json",
            "chat_template.jinja",
            "template.json",
        ):
            yield from sorted(Path(folder).glob(pattern))

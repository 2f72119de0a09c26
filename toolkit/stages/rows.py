"""What `evaluate` leaves for reports that join several runs: a row per prompt, a row per text.

answers.jsonl  {"prompt", "kind", "group", "models": {name: {"response", "finished", "length", "kl",
               "oracle", "reward"}}}
skills.jsonl   {"skill", "text", "answer", "models": {name: whether it was right}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.data.lines import write_records
from toolkit.data.tasks.base import Cloze
from toolkit.stages.shared import Record

Measured = Mapping[str, Mapping[str, Any]]
"""Model -> {"rows": an answer with its verdicts for each prompt, "skills": right or not}."""


def write_answers(
    folder: Path,
    prompts: Sequence[Record],
    names: Mapping[str, Sequence[str]],
    measured: Measured,
) -> None:
    """Write every answer with its verdicts.

    Args:
        folder: where to.
        prompts: held-out prompts.
        names: "kind", "group" -> of each prompt; empty where the task names none.
        measured: each model's answers.
    """
    records = []
    for at, prompt in enumerate(prompts):
        models = {
            name: {key: value for key, value in held["rows"][at].items() if key != "prompt"}
            for name, held in measured.items()
        }
        own = {name: values[at] for name, values in names.items() if values}
        records.append({"prompt": prompt["prompt"], **own, "models": models})
    write_records(folder / "answers.jsonl", records)


def write_skills(folder: Path, clozes: Sequence[Cloze], measured: Measured) -> None:
    """Write every skill text with the models that completed it rightly; nothing without texts."""
    if not clozes:
        return
    done = {name: held["skills"] for name, held in measured.items() if "skills" in held}
    write_records(
        folder / "skills.jsonl",
        (
            {**case._asdict(), "models": {name: right[at] for name, right in done.items()}}
            for at, case in enumerate(clozes)
        ),
    )

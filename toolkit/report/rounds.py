"""The report on rounds and on the selected epoch: figures, rows, and their sections."""

from __future__ import annotations

from typing import Any

from toolkit.report.load import Record, Run, read_json
from toolkit.report.markup import section, table
from toolkit.report.numbers import is_number, percent, plain

Row = tuple[str, ...]

SELECTION = ("epoch", "reward model's score", "held-out loss", "")
ROUNDS = (
    "round",
    "ranked prompts",
    "reward model, held-out",
    "reward model, final policy's answers",
    "score",
    "oracle",
    "KL",
)


def round_records(run: Run) -> list[Record]:
    """Return what each finished round came to; [] where the run has one round only."""
    if run.spec.rounds == 1:
        return []
    own = run.read("evaluate", "evaluation.json").get("own_answers") or {}
    return [_round(run, number, own) for number in range(1, run.spec.rounds + 1)]


def _round(run: Run, number: int, own: Record) -> Record:
    stages = {s.kind: s for s in run.stages if s.name.endswith(f".{number}") and s.state == "done"}
    reward, learner = stages.get("reward"), stages.get(run.spec.learner or "")
    accuracy = read_json(reward.folder / "accuracy.json") if reward and reward.folder else {}
    last = learner.metrics[-1] if learner and learner.metrics else {}
    label = stages["label"].done.get("summary", {}) if "label" in stages else {}
    return {
        "round": number,
        "prompts": label.get("prompts"),
        "accuracy": (accuracy.get("valid") or {}).get("accuracy"),
        "own_accuracy": (own.get("accuracy") or {}).get(f"reward.{number}"),
        **{name: last.get(f"objective/{name}") for name in ("score", "oracle", "kl")},
    }


def round_rows(records: list[Record]) -> list[Row]:
    """Return a row of ROUNDS for each round."""
    return [
        (
            str(r["round"]),
            _number(r["prompts"]),
            percent(r["accuracy"], 1),
            percent(r["own_accuracy"], 1),
            *(_number(r[name]) for name in ("score", "oracle", "kl")),
        )
        for r in records
    ]


def selection_rows(selection: Record) -> list[Row]:
    """Return a row of SELECTION for each epoch; the last cell marks the chosen one."""
    return [
        (
            str(e["epoch"]),
            _number(e["score"]),
            _number(e["valid_loss"]),
            "chosen" if e["epoch"] == selection["chosen"] else "",
        )
        for e in selection.get("epochs") or []
    ]


def rounds_section(report: Record) -> str:
    """Return the page's sections on rounds and on the selected epoch, where the run has them."""
    parts = []
    if report["rounds"]:
        parts.append(
            section(
                "Rounds",
                table(ROUNDS, round_rows(report["rounds"])),
                note="Score, oracle and KL are of each round's last step. The reward models are "
                "tried on answers of the final policy, ranked by the oracle.",
            )
        )
    if rows := selection_rows(report["selection"]):
        prompts = _number(report["selection"].get("prompts"))
        note = f"Each epoch of SFT answered the same {prompts} held-out prompts (InstructGPT, C.1)."
        parts.append(section("Which epoch is the SFT model", table(SELECTION, rows), note=note))
    return "".join(parts)


def _number(value: Any) -> str:
    return plain(value) if is_number(value) else ""

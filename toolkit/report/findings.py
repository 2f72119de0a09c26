"""What a run's numbers say in words: the headline, and the warnings that are due.

Over-optimisation is judged by the stage `evaluate`, which has the answers; it is shown first here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from toolkit.report.load import Record, Run, Stage
from toolkit.report.names import decisive, learner_of
from toolkit.report.numbers import interval, is_number, percent, plain
from toolkit.spec.schema import FROM_RANKINGS

OVER_OPTIMISATION = "over-optimisation"
NEAR_CHANCE = 0.6  # the default of reward.gate.accuracy
PERPLEXITY_RISE = 1.05
EOS_FALL = 0.05
JUDGES = {"oracle": "the oracle", "reward": "the reward model"}


@dataclass(frozen=True)
class Warned:
    """One warning: what kind, which stage to look at, one or two sentences."""

    kind: str
    stage: str
    text: str

    def as_record(self) -> dict[str, str]:
        """Return a JSON-able dict."""
        return asdict(self)


def before_after(evaluation: Record) -> tuple[Record, Record]:
    """Return the figures of SFT and of the learner's deciding weights; {} where there are none."""
    models = evaluation.get("models") or {}
    return models.get("sft") or {}, models.get(decisive(evaluation)) or {}


def main_verdict(evaluation: Record) -> tuple[str, Record] | None:
    """Return (who judged, result) of the judge that counts most, the oracle where there is one."""
    judges = evaluation.get("judges") or {}
    name = next((j for j in (*JUDGES, *judges) if j in judges), None)
    return None if name is None else (JUDGES.get(name, name), judges[name])


def headline(run: Run, evaluation: Record) -> str:
    """Say in one sentence how the run came out, or how far it is."""
    verdict = main_verdict(evaluation)
    if verdict is None:
        return _progress(run)
    by, result = verdict
    low, high = result.get("low"), result.get("high")
    rate = f"{percent(result.get('win_rate'))} of held-out prompts"
    if bounds := interval(low, high):
        rate += f" {bounds}"
    name = learner_of(evaluation)
    kl = before_after(evaluation)[1].get("kl")
    spent = f", at a KL of {plain(kl)} nats" if is_number(kl) else ""
    if is_number(low) and low > 0.5:
        return f"{name} beats SFT on {rate} by {by}{spent}."
    if is_number(high) and high < 0.5:
        return f"{name} is worse than SFT: it wins on only {rate} by {by}{spent}."
    return f"{name} and SFT are level: {name} wins on {rate} by {by}{spent}."


def _progress(run: Run) -> str:
    waiting = [s for s in run.stages if s.state != "done"]
    done = len(run.stages) - len(waiting)
    if not waiting:
        return (
            "The run is finished; it has no evaluation that compares "
            f"{run.spec.learner_name} with SFT."
        )
    count = f"{done} of {len(run.stages)} stages are done"
    people = run.spec.label.by == "people" and run.spec.label.file is None
    ranks = ", which waits for people's rankings" if people and waiting[0].kind == "label" else ""
    return f"The run is not finished: {count}, next is {waiting[0].name}{ranks}."


_LACKS = {
    "pretrain": "no pretraining loss",
    "sft": "no SFT loss",
    "reward": "no reward model accuracy",
    "folds": "no accuracy on labelers the reward model never saw",
    "ppo": "no curves of the learner",
    "dpo": "no DPO curves",
    "kto": "no KTO curves",
    "evaluate": "no comparison with SFT, no sample answers",
}


def missing(run: Run) -> list[str]:
    """Name each stage that has no result yet, and what the report therefore lacks."""
    return [_missing_text(stage) for stage in run.stages if stage.state != "done"]


def _missing_text(stage: Stage) -> str:
    lack = f": {_LACKS[stage.kind]}" if stage.kind in _LACKS else ""
    if stage.state == "outdated":
        return (
            f"{stage.name} was made for an earlier spec or inputs and is left out{lack}; run again."
        )
    if stage.state == "missing":
        return f"{stage.name} has not run{lack}."
    recorded = stage.metrics[-1].get("step", 0) if stage.metrics else 0
    total = stage.progress.get("total")
    steps = f"{recorded} of {total} steps" if total else f"{recorded} steps"
    failed = stage.progress.get("failed")
    return (
        f"{stage.name} failed after {steps}: {failed}" if failed else f"{stage.name} is at {steps}."
    )


def warnings(run: Run, evaluation: Record, accuracy: Record) -> list[Warned]:
    """Return every warning that is due, the gravest kind first, each text once."""
    found = [*_said_by_stages(run, evaluation)]
    found.sort(key=lambda w: {"gate": 0, "over_optimisation": 1}.get(w.kind, 3))
    found += [*_weak_reward(run, accuracy), *_not_better(evaluation)]
    found += [*_forgets(run, evaluation), *_never_ends(run, evaluation), *_negative_kl(run)]
    found += [Warned("spec", "spec", f"not read as written: {p}") for p in run.problems]
    unique: dict[str, Warned] = {}
    for warned in found:
        unique.setdefault(warned.text, warned)
    return list(unique.values())


def _said_by_stages(run: Run, evaluation: Record) -> Iterator[Warned]:
    for stage in run.stages:
        if stage.state != "done":
            continue
        if gate := _gate(run, stage):
            yield Warned("gate", stage.name, gate)
        said = stage.done.get("warnings") or []
        for text in [
            *said,
            *(evaluation.get("warnings") or [] if stage.kind == "evaluate" else []),
        ]:
            grave = str(text).lower().startswith(OVER_OPTIMISATION)
            yield Warned("over_optimisation" if grave else "stage", stage.name, str(text))


def _gate(run: Run, stage: Stage) -> str | None:
    """Return why a stage stops the run; the gate of `reward` may have been lowered since."""
    text = stage.done.get("gate")
    if stage.kind != "reward" or text is None:
        return text
    gate, accuracy = run.spec.reward.gate, (stage.done.get("summary") or {}).get("accuracy")
    passed = gate is None or (is_number(accuracy) and accuracy >= gate.accuracy)
    return None if passed else str(text)


def _weak_reward(run: Run, accuracy: Record) -> Iterator[Warned]:
    value = (accuracy.get("valid") or {}).get("accuracy")
    if is_number(value) and value < NEAR_CHANCE:
        text = (
            f"The reward model orders only {percent(value, 1)} of held-out comparisons rightly "
            f"(a coin: 50 %); what {run.spec.learner_name} gains by it means little. Collect more "
            "comparisons or train it longer."
        )
        yield Warned("reward_accuracy", run.last("reward").name, text)


def _not_better(evaluation: Record) -> Iterator[Warned]:
    """The interval of the main judge's win rate does not lie above one half."""
    verdict = main_verdict(evaluation)
    if verdict is None or not is_number(verdict[1].get("low")) or verdict[1]["low"] > 0.5:
        return
    by, result = verdict
    rate = f"{percent(result.get('win_rate'))} {interval(result['low'], result.get('high'))}"
    worse = is_number(result.get("high")) and result["high"] < 0.5
    how = "worse" if worse else "not clearly better"
    text = f"{learner_of(evaluation)} is {how} than SFT by {by}: its win rate is {rate}."
    yield Warned("not_better", "evaluate", text)


def _forgets(run: Run, evaluation: Record) -> Iterator[Warned]:
    """Pretraining perplexity rose: the alignment tax. A model never pretrained has none to pay."""
    if run.spec.pretrain is None and run.spec.models.base.path is None:
        return
    before, after = (figures.get("perplexity") for figures in before_after(evaluation))
    if is_number(before) and is_number(after) and after > PERPLEXITY_RISE * before:
        name = run.spec.learner_name
        text = (
            "The policy forgets: perplexity of held-out pretraining text rose from "
            f"{plain(before)} to {plain(after)} over {name}; {_memory_fix(run)}."
        )
        yield Warned("perplexity", _learner(run).name, text)


def _memory_fix(run: Run) -> str:
    if run.spec.learner in FROM_RANKINGS:
        return f"raise {run.spec.learner}.beta, or lower {run.spec.learner}.lr"
    return "raise ppo.ptx.coef" if run.spec.ppo and run.spec.ppo.ptx else "switch on ppo.ptx"


def _learner(run: Run) -> Stage:
    return run.last(run.spec.learner or "ppo")


def _never_ends(run: Run, evaluation: Record) -> Iterator[Warned]:
    """Fewer answers end with end-of-text than before."""
    before, after = (figures.get("eos_rate") for figures in before_after(evaluation))
    if is_number(before) and is_number(after) and after < before - EOS_FALL:
        first = "lower ppo.no_eos.score" if run.spec.ppo else _memory_fix(run)
        text = (
            f"{run.spec.learner_name} answers end less often: {percent(after)} close with "
            f"end-of-text, {percent(before)} did after SFT; {first} or raise text.max_response."
        )
        yield Warned("end_of_text", _learner(run).name, text)


def _negative_kl(run: Run) -> Iterator[Warned]:
    """The mean KL of PPO's last quarter lies below 0 by over two standard errors."""
    stage = run.last("ppo")
    values = [m["objective/kl"] for m in stage.metrics if is_number(m.get("objective/kl"))]
    if len(values) < 8:
        return
    tail = values[-max(len(values) // 4, 4) :]
    mean = sum(tail) / len(tail)
    error = math.sqrt(sum((v - mean) ** 2 for v in tail) / (len(tail) - 1) / len(tail))
    if mean + 2 * error < 0:
        text = (
            f"The estimated KL is negative (mean {plain(mean)} nats over the last {len(tail)} PPO "
            "iterations), which a true KL never is: sampler and policy disagree on log-probs."
        )
        yield Warned("negative_kl", stage.name, text)

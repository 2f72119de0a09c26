"""The page: one HTML file that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Iterable

from toolkit.report import plots, tables
from toolkit.report.findings import before_after
from toolkit.report.labelers import render_labelers
from toolkit.report.load import Record, Run
from toolkit.report.markup import esc, figure, folded, sample, section, table, tile, win_bar
from toolkit.report.names import decisive, learner_of
from toolkit.report.numbers import duration, interval, is_number, memory, percent, plain
from toolkit.report.panels import FROM_RANKINGS, PPO_MACHINE, PPO_MAIN, TRAINING, Panel
from toolkit.report.rounds import rounds_section
from toolkit.report.style import CSS
from toolkit.report.table import stage_rows

SHOWN_SAMPLES = 6


def render_page(report: Record, run: Run) -> str:
    """Return the whole report as one HTML document."""
    parts = [
        _head(report),
        _comparison(report["evaluation"]),
        _samples(report["samples"], learner_of(report["evaluation"])),
        _learner(report, run),
        _reward(report["accuracy"]),
        render_labelers(report["labels"], report["folds"]),
        rounds_section(report),
        section("Training", _panels(TRAINING, run)),
        _paper(report["deviations"]),
        _cost(report),
        _settings(report, run),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{esc(report['name'])}: report</title><style>{CSS}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _head(report: Record) -> str:
    warned = "".join(
        f'<div class="warning {esc(w["kind"])}"><b>{esc(w["stage"])}:</b> {esc(w["text"])}</div>'
        for w in report["warnings"]
    )
    lacking = "".join(f"<li>{esc(text)}</li>" for text in report["missing"])
    if lacking:
        lacking = f'<div class="missing"><b>Not there yet</b><ul>{lacking}</ul></div>'
    tiles = "".join(_tiles(report))
    tiles = f'<div class="tiles">{tiles}</div>' if tiles else ""
    return (
        f'<header><p class="name">{esc(report["name"])}, seed {esc(report["seed"])}</p>'
        f"<h1>{esc(report['headline'])}</h1></header>"
        f"{warned}{lacking}{tiles}"
    )


def _tiles(report: Record) -> Iterable[str]:
    evaluation = report["evaluation"]
    sft, ours = before_after(evaluation)
    learner = learner_of(evaluation)
    for judge, result in (evaluation.get("judges") or {}).items():
        if judge == "oracle":
            tone = (
                "good"
                if (result.get("low") or 0) > 0.5
                else "bad"
                if (result.get("high") or 1) < 0.5
                else ""
            )
            more = f"95 % {interval(result.get('low'), result.get('high'))}, {judge}"
            yield tile(f"{learner} wins against SFT", percent(result.get("win_rate")), more, tone)
    for key, what, better in (
        ("oracle", "Oracle score", 1),
        ("exact", "Exact answers", 1),
        ("reward", "Reward model's score", 0),
        ("perplexity", "Pretraining perplexity", 0),
    ):
        if is_number(sft.get(key)) and is_number(ours.get(key)):
            yield _before_after(what, learner, (sft[key], ours[key]), better, exact=key == "exact")
    if is_number(ours.get("kl")):
        yield tile("KL spent", plain(ours["kl"]), "nats per answer, to the reference")
    held_out = report["accuracy"].get("valid") or {}
    if is_number(held_out.get("accuracy")):
        more = f"of {plain(held_out.get('pairs'))} held-out comparisons"
        yield tile("Reward model is right on", percent(held_out["accuracy"], 1), more)
    spent = [s["seconds"] for s in report["stages"] if is_number(s["seconds"])]
    if spent:
        yield tile("Time", duration(sum(spent)), f"{len(spent)} stages")


def _before_after(
    what: str, learner: str, values: tuple[float, float], better: int, *, exact: bool
) -> str:
    show, (before, after) = percent if exact else plain, values
    tone = "good" if better and after > before else "bad" if better and after < before else ""
    return tile(what, f"{show(before)} \u2192 {show(after)}", f"SFT \u2192 {learner}", tone)


def _comparison(evaluation: Record) -> str:
    header, rows = tables.comparison(evaluation)
    learner = learner_of(evaluation)
    models = evaluation.get("models") or {}
    names = [
        (n, {"sft": "SFT"}.get(n, learner)) for n in ("sft", decisive(evaluation)) if n in models
    ]
    bars = "".join(win_bar(j, r, learner) for j, r in (evaluation.get("judges") or {}).items())
    wins = f'<div class="wins">{bars}</div>' if bars else ""
    judges = figure(
        plots.draw_judges(models, names),
        "What the reward model thinks, and what is true",
        "Both must rise. The reward model up and the oracle down is over-optimisation.",
        "judges",
    )
    kinds = table(*tables.by_kind(evaluation))
    prompts = plain(evaluation.get("prompts"))
    note = f"On {prompts} held-out prompts; a tie counts one half. * marks the weights that decide."
    if not rows:
        return section(f"SFT against {learner}", wins)
    left, right = table(header, rows) + kinds, wins + judges
    body = f'<div class="two"><div>{left}</div><div>{right}</div></div>'
    return section(f"SFT against {learner}", body, note=note)


def _samples(samples: list[Record], learner: str) -> str:
    """Show a few prompts, the first of each kind if they have kinds; fold the others away."""
    kinds = [record.get("kind", i) for i, record in enumerate(samples)]
    first = (record for i, record in enumerate(samples) if kinds[i] not in kinds[:i])
    shown = list(first)[:SHOWN_SAMPLES]
    rest = [record for record in samples if record not in shown]
    return section(
        "Answers side by side",
        "".join(sample(record, learner) for record in shown),
        folded(f"{len(rest)} more prompts", "".join(sample(record, learner) for record in rest))
        if rest
        else "",
        note="The same held-out prompts, answered by both models.",
    )


def _learner(report: Record, run: Run) -> str:
    front = figure(
        plots.draw_frontier(report["frontier"]),
        "KL-reward frontier",
        "What was bought with how much KL. Each dot is an iteration, later ones fuller. The oracle "
        "falling while the reward model rises is over-optimisation.",
        "wide",
    )
    name = run.spec.learner_name
    main = _panels(FROM_RANKINGS if run.spec.ppo is None else PPO_MAIN, run)
    machine = folded(f"{name}'s inner workings", _panels(PPO_MACHINE, run))
    return section(name, main, front, machine)


def _panels(panels: Iterable[Panel], run: Run) -> str:
    drawn = [
        figure(plots.draw_panel(panel, run.last(panel.kind).metrics), panel.title, panel.caption)
        for panel in panels
    ]
    return f'<div class="plots">{"".join(drawn)}</div>' if any(drawn) else ""


def _reward(accuracy: Record) -> str:
    rows = table(("comparisons", "ordered rightly", "pairs"), tables.accuracies(accuracy))
    offset = accuracy.get("score_offset")
    centred = (
        f"Centred: {plain(offset)} was subtracted, so that demonstrations average 0."
        if is_number(offset)
        else ""
    )
    drawn = figure(
        plots.draw_histogram(accuracy.get("histogram") or {}), "Scores of held-out answers", centred
    )
    return section(
        "Reward model",
        f'<div class="two"><div>{rows}</div><div>{drawn}</div></div>' if rows else drawn,
    )


def _paper(found: Record) -> str:
    """Show what the run's spec does otherwise than the paper's preset."""
    if not found:
        return ""
    recipe = table(*tables.deviations(found["recipe"]), "words") or "<p>None.</p>"
    around = folded("Environment", table(*tables.deviations(found["environment"]), "words"))
    text = f"Values of the recipe that differ from the preset {found['preset']}."
    return section("Deviations from the paper", recipe, around, note=f"{text} {found['note']}.")


def _cost(report: Record) -> str:
    rows = stage_rows(report)
    known = [s for s in report["stages"] if is_number(s["seconds"])]
    total = ("all", "", "", duration(sum(s["seconds"] for s in known)))
    peak = memory(
        max((s["peak_memory"] for s in known if is_number(s["peak_memory"])), default=None)
    )
    whole = [*rows, (*total, peak)] if len(known) > 1 else rows
    return section(
        "Time and memory", table(("stage", "state", "steps", "time", "peak memory"), whole)
    )


def _settings(report: Record, run: Run) -> str:
    data = table(*tables.data_counts(report["data"]))
    shown_above = ("data", "evaluate")
    results = {s["name"]: s["summary"] for s in report["stages"] if s["name"] not in shown_above}
    figures = folded("Figures of each stage", table((), tables.flat(results), "words"))
    header = ("metric", "first", "last", "smallest", "largest", "count")
    ranges = [
        (f"{stage}: {name}", *(plain(r[k]) for k in ("first", "last", "min", "max", "count")))
        for stage, metrics in report["metrics"].items()
        for name, r in metrics.items()
    ]
    every = folded("Every metric", table(header, ranges))
    spec = folded("Resolved spec", f"<pre>{esc(run.text)}</pre>" if run.text else "")
    lock = folded("Versions, seed and machine", table((), tables.flat(report["lock"]), "words"))
    return section("Data and settings", data, figures, every, spec, lock)

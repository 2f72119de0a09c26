"""The joined page: one HTML file that needs nothing but itself."""

from __future__ import annotations

from toolkit.report.joined import figures, tables
from toolkit.report.joined.build import seconds_spent
from toolkit.report.load import Record
from toolkit.report.markup import esc, figure, folded, section, table
from toolkit.report.numbers import duration, plain
from toolkit.report.style import CSS

MEASURES = (
    ("win_rate", "wins against sft"),
    ("skill", "skills, held out"),
    ("pretraining_loss", "pretraining loss"),
    ("oracle", "oracle's score"),
)


def render(report: Record) -> str:
    """Return the whole report as one HTML document."""
    title = headline(report)
    parts = (_models(report), _tax(report), _sweeps(report), _over(report), _reward(report))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{esc(title)}</title><style>{CSS}</style></head><body><main>"
        f'<header><p class="name">{len(report["runs"])} runs</p><h1>{esc(title)}</h1></header>'
        f"{''.join(parts)}{_runs(report)}</main></body></html>\n"
    )


def headline(report: Record) -> str:
    """Say in one sentence which model is best, and on what."""
    rated = [m for m in report["models"] if m.get("elo")]
    if not rated:
        return f"{len(report['runs'])} runs without an evaluation."
    best = max(rated, key=lambda m: m["elo"]["elo"])
    seeds = len(report["seeds"])
    return (
        f"Of {len(rated)} models, {best['name']} is preferred: Elo {tables.elo(best['elo'])}, on "
        f"{plain(report['prompts'])} prompts of {seeds} seed{'s' if seeds > 1 else ''}."
    )


def _models(report: Record) -> str:
    drawn = figure(
        figures.draw_elo(report["models"]),
        "Elo",
        "A Bradley-Terry fit of all pairwise verdicts on the same prompts, ties one half; bars: "
        "95 % of a bootstrap over prompts.",
    )
    wins = folded("Every pair", table(*tables.matrix(report)))
    seeds = folded("Each seed", table(*tables.by_seed(report)))
    note = (
        f"The judge is the {report['judge']}. Every model answered the same held-out prompts with "
        "the same random numbers. Figures are means over seeds."
    )
    return section("Models", table(*tables.models(report)), drawn, wins, seeds, note=note)


def _tax(report: Record) -> str:
    shown = (
        ("skill", "skills completed rightly, share"),
        ("pretraining_loss", "loss on held-out pretraining text, nats per token"),
    )
    drawn = "".join(
        figure(figures.draw_models(report["models"], key, label), label.split(",")[0].capitalize())
        for key, label in shown
    )
    note = "What tuning does to abilities it does not train; dots are seeds."
    return section("Alignment tax", f'<div class="two">{drawn}</div>' if drawn else "", note=note)


def _sweeps(report: Record) -> str:
    parts = []
    for sweep in report["sweeps"]:
        title = f"{sweep['path']}, seed {sweep['seed']}"
        parts.append(figure(figures.draw_sweep(sweep, MEASURES), title, style="wide"))
        parts.append(folded(f"Figures: {title}", table(*tables.sweep(sweep))))
    return section("Sweeps", *parts)


def _over(report: Record) -> str:
    return section(
        "Over-optimisation",
        figure(
            figures.draw_frontiers(report["frontiers"]),
            "What was bought with how much KL",
            "Each dot is an iteration, lines are running means, rings their ends. The oracle "
            "falling while the reward model rises is over-optimisation.",
            "wide",
        ),
    )


def _reward(report: Record) -> str:
    drawn = figure(
        figures.draw_epochs(report["reward"]),
        "Elements of a batch: a prompt with all its pairs, or shuffled single pairs",
        "Thin lines are seeds.",
        "wide",
    )
    return section("Reward models", table(*tables.reward_models(report)), drawn)


def _runs(report: Record) -> str:
    rows = [
        (
            run["folder"],
            str(run["seed"]),
            duration(sum(v for v in run["seconds"].values() if v)),
            ", ".join(run["missing"]) or "nothing",
        )
        for run in report["runs"]
    ]
    spent = duration(seconds_spent(report["runs"]))
    note = f"Working time {spent}, a stage that several runs share counted once."
    return section(
        "Runs", folded("Folders", table(("run", "seed", "stages", "missing"), rows)), note=note
    )

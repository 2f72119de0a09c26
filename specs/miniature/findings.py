"""The table "paper / ours" of docs/MINIATURE.md, from the joined report.

python -m specs.miniature.findings runs/miniature/report.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Record = dict[str, Any]

ORDER = ("base", "prompted", "sft", "ppo", "ptx")
TITLES = {
    "base": "base", "sft": "SFT", "init": "PPO's start", "ppo": "PPO", "ptx": "PPO-ptx",
}  # fmt: skip
NEAR = 0.02
"""Within 2 % of the start, and win rates within two points: what counts as restored."""


def rows(report: Record) -> Iterator[tuple[str, str, str]]:
    """Yield (finding, paper, ours)."""
    models = {m["name"]: m for m in report["models"]}
    yield (
        "the small aligned model is preferred to the large unaligned one",
        "1.3B over 175B",
        f"ptx wins {_wins(report, 'ptx', 'large base')} against the 10x base, "
        f"{_wins(report, 'ptx', 'large sft')} against the 10x SFT",
    )
    elo = ", ".join(f"{n} {_elo(models[n])}" for n in ORDER if n in models)
    rated = [models[n]["elo"]["elo"] for n in ORDER[:3] if n in models]
    holds = rated == sorted(rated) and all(
        models[n]["elo"]["elo"] > rated[-1] for n in ORDER[3:] if n in models
    )
    order = "GPT < GPT prompted < SFT < PPO, PPO-ptx"
    yield "order of models by preference", order, f"Elo {elo}: {_verdict(holds)}"
    yield _tax(models, "skill", "SQuAD 69.75 / 65.90 / 51.95 / 69.93", "held-out skills, %", 100)
    paper = "not printed; gamma >= 20 recovers SQuAD and DROP"
    yield _tax(models, "pretraining_loss", paper, "pretraining loss, nats", 1)
    gained = [
        models["ptx"]["wins"]["by_seed"][s] - models["ppo"]["wins"]["by_seed"][s]
        for s in models["ppo"]["wins"]["by_seed"]
    ]
    yield (
        "the win rate stays",
        "PPO-ptx is preferred like PPO",
        f"against SFT: PPO {_wins(report, 'ppo', 'sft')}, PPO-ptx {_wins(report, 'ptx', 'sft')}; "
        f"ptx changes it by {', '.join(f'{100 * g:+.1f}' for g in gained)} points by seed: loses "
        f"at most 2: {_verdict(min(gained) >= -NEAR)}; within 2 either way: "
        f"{_verdict(max(map(abs, gained)) <= NEAR)}",
    )
    yield from _sweeps(report)
    yield from _elements(report)
    yield from _over(report)


def _wins(report: Record, one: str, other: str) -> str:
    held = (report["wins"].get(one) or {}).get(other)
    if held is None:
        return "(not compared)"
    seeds = ", ".join(f"{100 * v:.1f}" for v in held["by_seed"].values())
    bounds = f"[{100 * held['low']:.1f}, {100 * held['high']:.1f}]"
    return f"{100 * held['win_rate']:.1f} % {bounds} (seeds {seeds})"


def _elo(model: Record) -> str:
    elo = model["elo"]
    return f"{elo['elo']:.0f} [{elo['low']:.0f}, {elo['high']:.0f}]"


def _verdict(holds: bool) -> str:
    return "holds" if holds else "**does not hold**"


def _tax(models: Record, key: str, paper: str, title: str, unit: float) -> tuple[str, str, str]:
    names = [n for n in ("base", "sft", "init", "ppo", "ptx") if n in models]
    values = {n: models[n][key]["by_seed"] for n in names}
    digits = 1 if unit == 100 else 4
    means = " / ".join(f"{unit * models[n][key]['mean']:.{digits}f}" for n in names)
    sign = 1 if key == "skill" else -1
    seeds = list(values["base"])
    start = "init" if "init" in models else "sft"
    hurt = all(sign * (values[start][s] - values["ppo"][s]) > 0 for s in seeds)
    said = [f"{' / '.join(TITLES[n] for n in names)}: {means}", f"PPO hurts: {_verdict(hurt)}"]
    for name in dict.fromkeys(("base", start)):
        if not all(values[name][s] for s in seeds):
            said.append(f"{TITLES[name]} has none to keep on some seed")
            continue
        gaps = [sign * (values[name][s] - values["ptx"][s]) / values[name][s] for s in seeds]
        shown = ", ".join(f"{-100 * g:+.1f} %" for g in gaps)
        said.append(
            f"PPO-ptx against {TITLES[name]}, + is better, by seed: {shown}: "
            f"{_verdict(max(gaps) <= NEAR)} (within 2 %)"
        )
    return f"alignment tax and its cure: {title}", paper, "; ".join(said)


def _sweeps(report: Record) -> Iterator[tuple[str, str, str]]:
    for sweep in report["sweeps"]:
        shown = "; ".join(
            f"{p['value']:g}: loss {p['pretraining_loss']:.3f}, skills {100 * p['skill']:.0f} %, "
            f"wins {100 * p['win_rate']:.1f} %"
            for p in sweep["points"]
        )
        name = "gamma works" if "ptx" in sweep["path"] else "raising beta does not replace it"
        yield f"{name} ({sweep['path']}, seed {sweep['seed']})", "E.6", shown


def _elements(report: Record) -> Iterator[tuple[str, str, str]]:
    # a model that had no held-out pair to compare has no accuracy
    several = [
        m
        for m in report["reward"]
        if len(m["by_epoch"]) > 1 and all("accuracy" in epoch for epoch in m["by_epoch"])
    ]
    parts = []
    for element in ("prompt", "pair"):
        own = [m["by_epoch"] for m in several if m["element"] == element]
        if own:
            for key, unit in (("accuracy", 100), ("loss", 1)):
                means = (sum(o[i][key] for o in own) / len(own) for i in range(len(own[0])))
                digits = 1 if unit == 100 else 3
                said = ", ".join(f"{unit * m:.{digits}f}" for m in means)
                parts.append(f"{element}: held-out {key} after each epoch {said}")
    if parts:
        yield (
            "all pairs of a prompt as one element avoids overfitting",
            "section 3.5",
            "; ".join(parts),
        )


def _over(report: Record) -> Iterator[tuple[str, str, str]]:
    parts = []
    for curve in report["frontiers"]:
        points = curve["points"]
        tail = points[-max(1, len(points) // 10) :]
        peak = max(_smooth([p["oracle"] for p in points]))
        means = [sum(p[k] for p in tail) / len(tail) for k in ("kl", "score", "oracle")]
        parts.append(
            f"{curve['run']} seed {curve['seed']}: ends at KL {means[0]:.1f}, RM {means[1]:.2f}, "
            f"oracle {means[2]:.3f} (its peak {peak:.3f})"
        )
    if parts:
        yield "over-optimisation", "later literature", "; ".join(parts)


def _smooth(values: list[float]) -> list[float]:
    window = max(1, len(values) // 10)
    return [sum(values[i : i + window]) / window for i in range(len(values) - window + 1)]


def markdown(report: Record) -> str:
    """Return the table."""
    lines = ["| finding | paper | here |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows(report))]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))

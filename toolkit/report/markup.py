"""Small pieces of HTML. Every text passes `esc` here."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from toolkit.report.load import Record
from toolkit.report.names import sampled_learner
from toolkit.report.numbers import interval, is_number, percent, plain


def esc(value: Any) -> str:
    """Return `value` as text that is safe in HTML and in a quoted attribute."""
    return html.escape(str(value), quote=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], style: str = "") -> str:
    """Return a table; "" without rows."""
    if not rows:
        return ""
    head = "".join(f"<th>{esc(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{esc(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    top = f"<thead><tr>{head}</tr></thead>" if header else ""
    return (
        f'<div class="scroll"><table class="{esc(style)}">{top}<tbody>{body}</tbody></table></div>'
    )


def tile(what: str, value: str, more: str = "", tone: str = "") -> str:
    """Return one key figure."""
    return (
        f'<div class="tile"><div class="what">{esc(what)}</div>'
        f'<div class="value {esc(tone)}">{esc(value)}</div>'
        f'<div class="more">{esc(more)}</div></div>'
    )


def figure(svg: str, title: str, caption: str = "", style: str = "") -> str:
    """Return a plot with its title and how to read it; `svg` is our own drawing. "" without one."""
    if not svg:
        return ""
    note = f"<span>{esc(caption)}</span>" if caption else ""
    return f'<figure class="{esc(style)}"><figcaption>{esc(title)}{note}</figcaption>{svg}</figure>'


def section(title: str, *parts: str, note: str = "") -> str:
    """Return a titled section; "" when all its parts are empty."""
    inside = "".join(parts)
    if not inside:
        return ""
    lead = f'<p class="note">{esc(note)}</p>' if note else ""
    return f"<section><h2>{esc(title)}</h2>{lead}{inside}</section>"


def folded(title: str, inside: str) -> str:
    """Return content that opens on a click; "" without content."""
    return f"<details><summary>{esc(title)}</summary>{inside}</details>" if inside else ""


def win_bar(judge: str, result: Record, learner: str) -> str:
    """Return one judge's wins, ties and losses as a bar under its win rate."""
    bounds = interval(result.get("low"), result.get("high"))
    rate = f"{percent(result.get('win_rate'), 1)} {bounds}"
    title = f"<div><b>By {esc(judge)}</b>: {learner} wins {esc(rate)}</div>"
    counts = [result.get(name) for name in ("wins", "ties", "losses")]
    known = [count for count in counts if is_number(count)]
    if len(known) < 3 or not sum(known):
        return f'<div class="judge">{title}</div>'
    words = (f"{learner} better", "ties", "SFT better")
    parts = (
        _bar_part(kind, word, count, count / sum(known))
        for kind, word, count in zip("wtl", words, known, strict=True)
    )
    return f'<div class="judge">{title}<div class="bar">{"".join(parts)}</div></div>'


def _bar_part(kind: str, word: str, count: float, share: float) -> str:
    number = plain(count)
    text = f"{number} {word}" if share > 0.2 else number if share > 0.04 else ""
    width = f"width:{100 * share:.2f}%"
    return f'<div class="{kind}" style="{width}" title="{number} {word}">{text}</div>'


def sample(record: Record, learner: str) -> str:
    """Return one prompt with both answers; the better by the oracle, else the RM, is marked."""
    key = sampled_learner(record)
    judge = "oracle" if is_number(record.get("oracle_sft")) else "reward"
    before, after = record.get(f"{judge}_sft"), record.get(f"{judge}_{key}")
    best = ""
    if is_number(before) and is_number(after) and before != after:
        best = key if after > before else "sft"
    answers = "".join(
        _answer(record, who, name, who == best) for who, name in (("sft", "SFT"), (key, learner))
    )
    kind = f'<div class="who">{esc(record["kind"])}</div>' if "kind" in record else ""
    text = f'<div class="text">{esc(record.get("prompt", ""))}</div>'
    prompt = f'<div class="prompt">{kind}{text}</div>'
    return f'<div class="sample">{prompt}<div class="pair">{answers}</div></div>'


def _answer(record: Record, who: str, name: str, best: bool) -> str:
    scores = [
        f"<span>{word} {plain(record[f'{judge}_{who}'])}</span>"
        for judge, word in (("oracle", "oracle"), ("reward", "RM"))
        if is_number(record.get(f"{judge}_{who}"))
    ]
    style = "answer best" if best else "answer"
    return (
        f'<div class="{style}"><div class="who"><b>{name}</b>{"".join(scores)}</div>'
        f'<div class="text">{esc(record.get(who, ""))}</div></div>'
    )

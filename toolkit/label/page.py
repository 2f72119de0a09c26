"""The page as one text: page.html with page.css and page.js inside, and what this server sets.

Texts of models and people never stand in it: the script asks for them and shows them as text.
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

_HOLE = re.compile(r"@([A-Z]+)@")


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a page begins with.

    Args:
        run: name of the run.
        stage: the label stage that waits.
        labeler: who ranks, until somebody writes another name.
        ties: whether answers may share a rank.
        token: what a ranking must come with.
    """

    run: str
    stage: str
    labeler: str
    ties: bool
    token: str


@lru_cache(maxsize=3)
def _part(kind: str) -> str:
    return Path(__file__).with_name(f"page.{kind}").read_text(encoding="utf-8")


def render_page(page: Page, nonce: str) -> str:
    """Return the page.

    Args:
        page: what it begins with.
        nonce: marks its own script and style for the browser.
    """
    parts = {
        "TITLE": html.escape(f"{page.run}: rank the answers"),
        "STAGE": html.escape(f"{page.run}, {page.stage}"),
        "NONCE": html.escape(nonce),
        "STYLE": _part("css"),
        "SCRIPT": _part("js"),
        # in a script element only "<" could end the JSON early
        "SETTINGS": json.dumps(asdict(page)).replace("<", "\\u003c"),
    }
    # one pass: what is put in is not looked at again
    return _HOLE.sub(lambda hole: parts[hole[1]], _part("html"))

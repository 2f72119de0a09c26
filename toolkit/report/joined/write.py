"""Write the joined report: a page and the same figures as JSON beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.pipeline.files import write_text_atomic
from toolkit.report.joined import tables
from toolkit.report.joined.build import build
from toolkit.report.joined.models import join
from toolkit.report.joined.page import headline, render
from toolkit.report.load import Record, load_run
from toolkit.report.write import to_json
from toolkit.spec.errors import ToolkitError

if TYPE_CHECKING:
    from rich.console import Console


def write_joined(folders: Sequence[str], html: str | None = None) -> tuple[Record, Path]:
    """Join runs and write page and JSON.

    Args:
        folders: run folders.
        html: where the page goes; default: report.html in the folder that holds them all.

    Returns:
        (the report, the page).

    Raises:
        ToolkitError: as `load_run`, `join` and `build`; or a folder is named twice.
    """
    if len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise ToolkitError("report: a run folder is named twice; name each once")
    report = build(join([load_run(Path(folder)) for folder in folders]))
    common = os.path.commonpath([Path(folder).resolve() for folder in folders])
    page = Path(html) if html else Path(common) / "report.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(page.with_suffix(".json"), to_json(report))
    write_text_atomic(page, render(report))
    return report, page


def print_joined(report: Record, console: Console | None = None) -> None:
    """Print the joined report's tables."""
    from rich.console import Console
    from rich.text import Text

    from toolkit.report.table import print_table

    out = console or Console()
    out.print(Text(f"\n{headline(report)}", style="bold"))
    print_table(out, *tables.models(report))
    for sweep in report["sweeps"]:
        print_table(out, *tables.sweep(sweep))
    print_table(out, *tables.reward_models(report))

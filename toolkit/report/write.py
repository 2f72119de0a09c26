"""Write report.json and report.html into the run folder, each whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

from toolkit.pipeline.files import write_text_atomic
from toolkit.report.load import Record, load_run
from toolkit.report.summary import build_report


def write_report(run_dir: str | Path, html: str | Path | None = None) -> Record:
    """Write the report of a run and return it.

    Args:
        run_dir: the run folder; report.json goes there.
        html: where the page goes; default: report.html in the run folder.
    """
    from toolkit.report.page import render_page

    folder = Path(run_dir)
    run = load_run(folder)
    report = build_report(run)
    write_text_atomic(folder / "report.json", to_json(report))
    page = Path(html) if html else folder / "report.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(page, render_page(report, run))
    return report


def to_json(report: Record) -> str:
    """Return the report as JSON text with a final newline."""
    return json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

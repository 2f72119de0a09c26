"""`python -m toolkit report`: the table, --json, --out."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from toolkit.cli import report as command
from toolkit.cli.parser import make_parser
from toolkit.report.table import print_summary


def run(*argv: str) -> int:
    """Run the command as the command line would."""
    return command.run(make_parser("report", command).parse_args(argv))


def test_the_table_says_it_all(finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(str(finished.path)) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "PPO beats SFT on 78 % of held-out prompts [74, 82]" in out
    assert "oracle score 0.606 0.913 0.920 +0.307" in out
    assert "oracle 78.1 % [74, 82] 350 100 62" in out
    assert "held-out 94.7 % 731" in out
    assert "ppo.1 done 60 12.5 s 700 MB" in out
    assert (finished.path / "report.html").exists()


def test_json_prints_one_document_and_nothing_else(
    finished: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(finished.path), "--json") == 0
    out = capsys.readouterr().out
    assert json.loads(out) == json.loads((finished.path / "report.json").read_text())


def test_out_puts_the_page_elsewhere(finished: Any, tmp_path: Path) -> None:
    assert run(str(finished.path), "--out", str(tmp_path / "new" / "page.html")) == 0
    assert (tmp_path / "new" / "page.html").exists()
    assert not (finished.path / "report.html").exists()


def test_summary_of_an_unfinished_run_with_a_warning(folder: Any) -> None:
    folder.finish("data", warnings=["[bold]10 prompts were dropped[/bold]"])
    stream = io.StringIO()
    print_summary(folder.path, Console(file=stream, width=200))
    out = stream.getvalue()
    assert "1 of 10 stages are done" in out
    assert "warning, data: [bold]10 prompts were dropped[/bold]" in out
    assert "not yet: sft has not run: no SFT loss." in out

"""Write a spec in an empty current directory and load it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

MINIMAL = "extends: tiny\ndata: {task: {name: sort}}\n"

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return write(text, name="spec.yaml"), which gives back the relative file name."""
    monkeypatch.chdir(tmp_path)

    def write_file(text: str = MINIMAL, name: str = "spec.yaml") -> str:
        Path(name).write_text(text, encoding="utf-8")
        return name

    return write_file

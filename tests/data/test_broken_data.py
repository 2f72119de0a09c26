"""Every broken file in tests/golden/broken_data gives exactly the messages beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.__main__ import main
from toolkit.data.scan import scan
from toolkit.spec.load import load_spec

FOLDER = Path(__file__).parents[1] / "golden" / "broken_data"
BROKEN = sorted(path.stem for path in FOLDER.glob("*.yaml"))


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(FOLDER)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_there_are_at_least_ten_broken_files() -> None:
    assert len(BROKEN) >= 10


@pytest.mark.parametrize("name", BROKEN)
def test_check_names_every_problem_and_returns_3(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = Path(f"{name}.txt").read_text(encoding="utf-8")
    assert main(["check", f"{name}.yaml"]) == 3
    assert capsys.readouterr().err == expected
    assert not Path("runs").exists()


@pytest.mark.parametrize("name", BROKEN)
def test_a_scan_with_problems_is_not_kept(name: str, tmp_path: Path) -> None:
    assert scan(load_spec(f"{name}.yaml", []).spec).problems
    assert not list(tmp_path.rglob("*.json"))

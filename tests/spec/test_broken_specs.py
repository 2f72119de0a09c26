"""Every broken spec in tests/golden/broken_specs gives exactly the messages beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.spec.errors import SpecError
from toolkit.spec.load import load_spec

FOLDER = Path(__file__).parents[1] / "golden" / "broken_specs"
BROKEN = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def test_there_are_at_least_ten_broken_specs() -> None:
    assert len(BROKEN) >= 10


@pytest.mark.parametrize("name", BROKEN)
def test_all_problems_are_reported_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    expected = Path(f"{name}.txt").read_text(encoding="utf-8").rstrip("\n")
    with pytest.raises(SpecError) as caught:
        load_spec(f"{name}.yaml")
    assert str(caught.value) == expected
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", BROKEN)
def test_positions_point_at_the_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    lines = Path(f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    with pytest.raises(SpecError) as caught:
        load_spec(f"{name}.yaml")
    for problem in caught.value.problems:
        if problem.file == f"{name}.yaml" and problem.path:
            named = [*problem.path.split("."), '"']
            assert lines[problem.line - 1][problem.col - 1 :].startswith(tuple(named)), problem

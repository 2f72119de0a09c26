"""docs/PAPER.md tells the truth: its keys, functions and tests exist; all thirty details have some.

A row leads from a statement to keys of the spec, functions, and tests. What is not there says so in
the column of the code, and has no test.
"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from toolkit.spec.details import DETAILS
from toolkit.spec.schema import Spec
from toolkit.spec.vocabulary import find_key

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "PAPER.md"
ABSENT = "not there: "
STATEMENTS, DETAIL_ROWS, FORMULAS = ("statement", "key"), ("", "detail"), ("formula", "test")


def tables(text: str) -> dict[tuple[str, str], list[list[str]]]:
    """Rows of each kind of table, by the first two cells of its header; a row is its cells."""
    found: dict[tuple[str, str], list[list[str]]] = {}
    header = None
    for line in text.splitlines():
        if not line.startswith("|"):
            header = None
            continue
        cells = [cell.strip() for cell in line.strip()[1:-1].split(" | ")]
        cells = [cell.strip("| ") for cell in cells]
        if header is None:
            header = (cells[0], cells[1])
        elif not line.startswith("|---"):
            found.setdefault(header, []).append(cells)
    return found


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@functools.cache
def definitions(file: str) -> frozenset[str]:
    """Dotted names of the functions and classes that a Python file defines."""
    path = ROOT / file
    if not path.is_file():
        return frozenset()
    names = set()

    def walk(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                names.add(prefix + child.name)
                walk(child, f"{prefix}{child.name}.")

    walk(ast.parse(path.read_text(encoding="utf-8")), "")
    return frozenset(names)


def missing_keys(cell: str) -> list[str]:
    return [key for key in quoted(cell) if find_key(Spec, tuple(key.split("."))) is None]


def missing_code(cell: str) -> list[str]:
    parts = [target.partition(":") for target in quoted(cell)]
    return [f"{file}:{name}" for file, _, name in parts if name not in definitions(file)]


def missing_tests(cell: str) -> list[str]:
    parts = [target.partition("::") for target in quoted(cell)]
    return [
        f"{file}::{name}"
        for file, _, name in parts
        if not (file.startswith("tests/") and name.startswith("test_"))
        or name not in definitions(file)
    ]


def check_row(cells: list[str]) -> list[str]:
    """Return what is wrong with (statement, key, code, test)."""
    if len(cells) != 4:
        return [f"{cells[0]}: {len(cells)} cells, expected 4"]
    statement, key, code, test = cells
    wrong = missing_keys(key) + missing_tests(test)
    if code.startswith(ABSENT):
        return [f"{statement}: {what}" for what in wrong] + ["has a test"] * bool(test)
    wrong += missing_code(code)
    if not quoted(code) or not quoted(test):
        wrong.append("no function or no test, and no `not there` with its reason")
    if not quoted(key) and key != "-":
        wrong.append("no key; a dash means always so")
    return [f"{statement}: {what}" for what in wrong]


@pytest.fixture(scope="module")
def page() -> dict[tuple[str, str], list[list[str]]]:
    return tables(PAGE.read_text(encoding="utf-8"))


def test_every_statement_leads_to_keys_code_and_tests_that_exist(page):
    rows = page[STATEMENTS]
    assert len(rows) >= 45
    assert [wrong for row in rows for wrong in check_row(row)] == []


def test_few_statements_are_not_there_and_each_says_why(page):
    absent = [row for row in page[STATEMENTS] if row[2].startswith(ABSENT)]
    assert all(len(row[2]) > len(ABSENT) + 20 for row in absent)
    assert len(absent) <= 6


def test_every_formula_has_an_independent_one(page):
    rows = page[FORMULAS]
    assert len(rows) >= 9
    assert [name for row in rows for name in missing_tests(row[1])] == []
    assert all(quoted(row[1]) for row in rows)


def test_the_details_are_those_of_the_table(page):
    rows = {int(cells[0]): cells for cells in page[DETAIL_ROWS]}
    for detail in DETAILS:
        _, text, keys, code, _ = rows[detail.number]
        assert text == detail.text
        assert tuple(quoted(keys)) == detail.keys, detail.number
        assert tuple(quoted(code)) == detail.where, detail.number
    assert len(rows) == len(DETAILS) == 30


def test_every_detail_acts_where_it_says():
    assert [name for d in DETAILS for name in missing_code(f"`{'` `'.join(d.where)}`")] == []


def collected_by_pytest(session: pytest.Session, wanted: set[str]) -> set[str]:
    """Return the tests of this session; asks another process where it was given only some files."""
    here = {item.nodeid.partition("[")[0] for item in session.items}
    if wanted <= here:
        return here
    files = sorted({test.partition("::")[0] for test in wanted})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]
    return {line.partition("[")[0] for line in done.stdout.splitlines() if "::" in line}


def test_thirty_of_thirty_details_have_tests_that_pytest_collects(page, request):
    named = {int(cells[0]): quoted(cells[4]) for cells in page[DETAIL_ROWS]}
    assert sorted(n for n, tests in named.items() if tests) == list(range(1, 31))
    wanted = {test for tests in named.values() for test in tests}
    assert sorted(wanted - collected_by_pytest(request.session, wanted)) == []


FINE = ["s", "`ppo.kl.coef`", "`toolkit/stages/ppo.py:PPO.step`", "`tests/test_paper.py::test_x`"]
FAULTS = {
    "a key that is no key": (1, "`ppo.kl.coeff`", "ppo.kl.coeff"),
    "no key and no dash": (1, "", "no key"),
    "a function that is not there": (2, "`toolkit/stages/ppo.py:PPO.stop`", "PPO.stop"),
    "a file that is not there": (2, "`toolkit/stages/rl.py:PPO.step`", "rl.py"),
    "nothing and no reason": (2, "soon", "no function"),
    "a test that is not there": (3, "`tests/test_paper.py::test_nothing`", "test_nothing"),
    "a helper in place of a test": (3, "`tests/test_paper.py::quoted`", "quoted"),
    "no test": (3, "", "no test"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_row_that_lies_is_found(fault):
    real = "`tests/test_paper.py::test_a_row_that_lies_is_found`"
    assert check_row([*FINE[:3], real]) == []
    place, cell, said = FAULTS[fault]
    row = [*FINE[:3], real]
    row[place] = cell
    (found,) = check_row(row)
    assert said in found

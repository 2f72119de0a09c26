"""Rows carry every column, and the CSV, the JSON and the table say the same."""

import csv
import io
import json

import pytest

from rlhf_kernels.bench.cases import Provider
from rlhf_kernels.bench.harness import measure
from rlhf_kernels.bench.plot import draw_plot
from rlhf_kernels.bench.rows import COLUMNS, append_csv, format_number, print_case, to_json
from tests.bench.samples import MACHINE, SETTINGS, make_case, wrong

PROTOCOL = """
op provider mode N V D dtype mask_share median_ms p10_ms p90_ms ratio ratio_p10 ratio_p90
bytes_model gb_per_s roofline_share peak_memory_mib max_error device threads isa torch version
commit
"""


@pytest.fixture(scope="module")
def rows():
    missing = Provider(name="quack", run=None, note="quack is not installed")
    case = make_case(Provider(name="wrong", run=wrong), missing)
    return measure(case, SETTINGS, MACHINE)


def test_rows_have_every_column_of_the_protocol():
    assert set(COLUMNS) >= set(PROTOCOL.split())


def test_csv_is_appended_under_one_header(rows, tmp_path):
    path = tmp_path / "rows.csv"
    append_csv(path, rows, MACHINE)
    append_csv(path, rows, MACHINE)
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == 2 * len(rows)
    assert list(found[0]) == COLUMNS
    assert float(found[1]["max_error"]) == 0.25
    assert found[2]["median_ms"] == ""
    assert found[2]["note"] == "quack is not installed"


def test_csv_with_other_columns_is_refused(rows, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("op,provider\n")
    with pytest.raises(ValueError, match="other columns"):
        append_csv(path, rows, MACHINE)


def test_json_is_one_document(rows):
    document = json.loads(to_json(rows, [{"goal": "g"}], MACHINE))
    assert [row["provider"] for row in document["rows"]] == ["rlhf_kernels", "wrong", "quack"]
    assert set(document["rows"][0]) == set(COLUMNS)
    assert document["machine"]["isa"] == "avx2"


def test_table_prints_the_reason_of_a_missing_provider(rows):
    out = io.StringIO()
    print_case(rows, out)
    lines = out.getvalue().splitlines()
    assert lines[1] == "double forward, 4x8 float32"
    assert any("wrong" in line and "2.5e-01" in line and "1.0e-02" in line for line in lines)
    assert lines[-1].split() == ["quack", "-", "quack", "is", "not", "installed"]


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_plot_is_written(rows, tmp_path, ending):
    path = tmp_path / f"plot.{ending}"
    draw_plot(path, rows, MACHINE)
    assert path.stat().st_size > 1000


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (0.0, "0"),
        (12.345, "12.3"),
        (0.01234, "0.0123"),
        (1234.5, "1234"),
        (1e-5, "1.0e-05"),
    ],
)
def test_numbers_keep_three_digits(value, text):
    assert format_number(value) == text

"""The table of goals is made from the file alone, and says what the file does not."""

import dataclasses
from pathlib import Path

import pytest

from rlhf_kernels.bench import device_goals, table
from rlhf_kernels.bench.cases import OURS
from rlhf_kernels.bench.device_goals import find_goals, make_device_goals
from rlhf_kernels.bench.goals import judge, judge_all
from rlhf_kernels.bench.results import read_records
from rlhf_kernels.bench.rows import Row, append_csv
from tests.bench.samples import MACHINE
from tests.pretend_cuda import pretend_cuda

H200 = dataclasses.replace(
    MACHINE, device="NVIDIA H200", driver="580.1", cuda="13.0", l2_mib=50.0, power_limit_w=700.0
)
A100 = dataclasses.replace(H200, device="NVIDIA A100-SXM4-40GB", read_gb_s=None)


def make_row(**changes):
    fields = {
        "op": "gather_logprobs",
        "mode": "forward",
        "provider": OURS,
        "shape": "8192x50257",
        "dtype": "bfloat16",
        "runs": 60,
        "median_ms": 0.19,
        "p10_ms": 0.18,
        "p90_ms": 0.2,
        "best_ms": 0.18,
        "ratio": 1.0,
        "roofline_share": 0.96,
        "copies": 1,
    }
    return Row(**(fields | changes))


ROWS = [
    make_row(),
    make_row(mask_share=0.5, median_ms=0.1),
    make_row(provider="eager plain", median_ms=1.9, p90_ms=2.0, ratio=10.0),
    make_row(
        op="ranking_loss",
        mode="forward+backward",
        shape="64x9",
        dtype="float32",
        median_ms=0.03,
        graph_ms=0.0035,
        roofline_share=None,
    ),
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "kernels.csv"
    append_csv(path, ROWS, H200)
    return path


def find_lines(text, *words):
    return [line for line in text.splitlines() if all(word in line for word in words)]


def test_rows_come_back_as_they_were_written(file):
    records = read_records(file)
    assert [row for row, _ in records] == ROWS
    assert {machine for _, machine in records} == {H200}


def test_no_file_is_a_table_in_which_nothing_is_measured(tmp_path, capsys):
    assert table.main([str(tmp_path / "missing.csv")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| goal | limit | NVIDIA H200 |"
    assert len(lines) == 2 + len(make_device_goals())
    assert all(line.endswith("| not measured |") for line in lines[2:])


def test_measured_cells_carry_their_number_and_share(file, capsys):
    table.main([str(file)])
    text = capsys.readouterr().out
    (line,) = find_lines(text, "log-prob, entropy and logsumexp, 8192x50257", "0.195")
    assert line.endswith("| <= 0.195 ms | 0.190 ms, 96 % of the roofline |")
    assert find_lines(text, "eager's plain", "50257")[0].endswith("| >= 9 | 10.0 |")
    assert find_lines(text, "half of the rows", "50257")[0].endswith("| <= 0.53 | 0.526 |")
    assert find_lines(text, "ranking loss, 64x9")[0].endswith("| <= 0.004 ms | 0.00350 ms |")
    assert find_lines(text, "151936")[0].endswith("| not measured |")


def test_missed_goals_are_said_and_later_rows_replace_earlier_ones(file, capsys):
    append_csv(file, [make_row(median_ms=0.3, roofline_share=0.6)], H200)
    table.main([str(file)])
    (line,) = find_lines(capsys.readouterr().out, "logsumexp, 8192x50257", "0.195")
    assert line.endswith("0.300 ms, 60 % of the roofline (missed) |")


def test_each_device_has_a_column_and_times_are_judged_on_their_own_only(file, capsys):
    append_csv(file, [make_row(median_ms=0.5, roofline_share=0.9)], A100)
    table.main([str(file)])
    text = capsys.readouterr().out
    assert text.startswith("| goal | limit | NVIDIA H200 | NVIDIA A100-SXM4-40GB |")
    (line,) = find_lines(text, "logsumexp, 8192x50257", "0.195")
    assert line.endswith("| 0.190 ms, 96 % of the roofline | 0.500 ms, 90 % of the roofline |")


def test_cpus_have_a_table_of_their_own(file, capsys):
    row = make_row(provider=OURS, shape="512x50257", dtype="float32", clock="wall")
    plain = dataclasses.replace(row, provider="torch.compile plain", ratio=2.5)
    append_csv(file, [row, plain], MACHINE)
    table.main([str(file)])
    text = capsys.readouterr().out
    assert "| goal | limit | a processor |" in text
    assert find_lines(text, "torch.compile's plain log-prob, float32")[0].endswith("| 0.400 |")


def test_table_replaces_what_stands_between_the_marks(file, tmp_path):
    document = tmp_path / "doc.md"
    document.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    for _ in range(2):
        assert table.main([str(file), "--write", str(document)]) == 0
    text = document.read_text()
    assert "old" not in text
    assert text.startswith(f"before\n{table.BEGIN}\n| goal")
    assert text.endswith(f"|\n{table.END}\nafter\n")


def test_document_without_marks_is_refused(file, tmp_path, capsys):
    document = tmp_path / "doc.md"
    document.write_text("nothing here\n")
    with pytest.raises(SystemExit):
        table.main([str(file), "--write", str(document)])
    assert "has no lines" in capsys.readouterr().err
    assert document.read_text() == "nothing here\n"


def test_file_with_other_columns_is_refused(tmp_path, capsys):
    path = tmp_path / "old.csv"
    path.write_text("op,provider\n")
    with pytest.raises(SystemExit):
        table.main([str(path)])
    assert "other columns" in capsys.readouterr().err


def test_rows_of_the_file_can_be_drawn(file, tmp_path, capsys):
    picture = tmp_path / "plot.svg"
    table.main([str(file), "--plot", str(picture)])
    assert "NVIDIA H200: gather" in picture.read_text()


def test_goals_belong_to_their_device():
    assert find_goals(H200) == make_device_goals()
    assert find_goals(A100) == []
    assert find_goals(MACHINE)[0].shape == "512x50257"


@pytest.mark.parametrize("number", range(len(make_device_goals())))
def test_each_goal_of_the_device_is_met_on_one_side_of_its_limit_only(number):
    goal = make_device_goals()[number]

    def measure(factor):
        if goal.kind == "ratio":
            ratio = goal.limit / factor
            rows = [make_row(), make_row(provider=goal.providers[0], ratio=ratio)]
        elif goal.kind == "masked":
            rows = [make_row(), make_row(mask_share=0.5, median_ms=0.19 * goal.limit * factor)]
        else:
            rows = [make_row(**{goal.kind: goal.limit * factor})]
        same = {"op": goal.case[0], "mode": goal.case[1]}
        same |= {"shape": goal.shape, "dtype": goal.dtype}
        return judge(goal, [dataclasses.replace(row, **same) for row in rows])

    assert (measure(0.99).met, measure(1.01).met) == (True, False)
    assert judge(goal, []).met is None


def test_goals_name_cases_that_the_benchmarks_have(monkeypatch):
    import importlib

    import torch

    from rlhf_kernels import _registry
    from rlhf_kernels.bench.cases import Settings

    for goal in make_device_goals():
        op, mode = goal.case
        if op not in _registry.OPS:
            continue
        module = importlib.import_module(f"rlhf_kernels.bench.bench_{op}")
        shape = (3, 5) if op == "ranking_loss" else (4, 65)
        with pretend_cuda(monkeypatch):
            settings = Settings(shape=shape, dtypes=(torch.float32,), device="cuda")
            cases = [case for case in module.make_cases(settings) if case.mode == mode]
        assert cases, goal
        names = {provider.name for case in cases for provider in case.providers}
        assert names & set(goal.providers) or not goal.providers, goal
    assert torch.bfloat16 in Settings(device="cuda").pick_logits_dtypes()


def test_shapes_of_the_goals_are_those_that_a_gpu_gets():
    from rlhf_kernels.bench.cases import Settings

    shapes = Settings(device="cuda").pick_logits_shapes()
    assert shapes == tuple((8192, vocabulary) for vocabulary in device_goals.VOCABULARIES)
    assert Settings(device="cuda", quick=True).pick_logits_shapes() == shapes[:1]


def test_verdicts_for_another_gpu_are_none():
    assert judge_all(ROWS, find_goals(A100)) == []


def test_document_holds_the_table_of_the_kept_file(root: Path):
    document = (root / "docs/KERNELS.md").read_text(encoding="utf-8")
    kept = table.make_tables(read_records(root / table.RESULTS))
    assert f"{table.BEGIN}\n{kept}{table.END}" in document, (
        "run python -m rlhf_kernels.bench.table --write docs/KERNELS.md"
    )

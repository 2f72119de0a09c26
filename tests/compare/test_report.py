"""Clock, settings side by side, ratios, the record, the command line."""

import csv
from types import SimpleNamespace

import pytest

from specs.compare import __main__ as command
from specs.compare import report, rows, runs
from specs.compare.measure import memory, pace
from specs.compare.processes import Bench


def settings(**changes):
    """Settings of sft, all "same" but for the changes."""
    return {**dict.fromkeys(rows.SETTINGS["sft"], "same"), **changes}


def row(system, seed, **figures):
    """A row of the table at kl 0.3."""
    about = {"task": "sort", "system": system, "precision": "fp32", "seed": seed, "kl_coef": 0.3}
    return {**about, **figures}


def test_pace_leaves_the_first_step_out():
    assert pace([10.0, 10.5, 11.0]) == 2.0
    assert pace([10.0]) is None


def test_peak_memory_is_no_less_than_what_is_used():
    assert memory("VmHWM") >= memory("VmRSS") > 0


def test_a_setting_that_differs_is_marked():
    table = rows.side_by_side("sft", {"ours": settings(batch=64), "trl": settings(batch=32)})
    marked = [line for line in table if line[0] == "*"]
    assert marked == [["*", "batch", "64", "32"]]
    assert len(table) == 1 + len(rows.SETTINGS["sft"])


def test_numbers_that_are_equal_are_not_marked_for_how_they_are_written():
    table = rows.side_by_side("sft", {"a": settings(batch=1.0), "b": settings(batch=1)})
    assert all(line[0] == "" for line in table)


def test_a_competitor_that_hides_a_setting_is_refused():
    told = settings()
    del told["batch"]
    with pytest.raises(ValueError, match="lack \\['batch'\\]"):
        rows.side_by_side("sft", {"ours": told})


def test_ratios_are_medians_within_a_seed():
    table = [row("trl", seed, total_s=10.0) for seed in (1, 2, 3)]
    table += [
        row("ours", seed, total_s=seconds) for seed, seconds in ((1, 2.0), (2, 4.0), (3, 9.0))
    ]
    assert report.ratios(table) == ["sort, kl 0.3, ours fp32 / TRL: time 0.40x"]


def test_a_record_is_appended_with_where_it_was_measured(tmp_path):
    bench = SimpleNamespace(load=0.25, threads=2, versions={"trl": {"torch": "2"}})
    for _ in range(2):
        report.record(tmp_path / "trl.csv", [row("trl", 1, sft_s=1.5)], bench)
    with open(tmp_path / "trl.csv", newline="") as file:
        read = list(csv.DictReader(file))
    assert len(read) == 2
    assert (read[1]["sft_s"], read[1]["ppo_s"], read[1]["load"]) == ("1.5", "", "0.25")
    assert read[1]["versions"] == "torch=2"
    assert read[1]["commit"]


def test_a_missing_environment_is_named(tmp_path):
    with pytest.raises(SystemExit, match="make bench-trl"):
        Bench(tmp_path, 1, {"trl": str(tmp_path / "none")})


def test_each_repeat_starts_with_another_competitor():
    first = [runs.turns(["ours", "trl", "plain"], repeat)[0] for repeat in (1, 2, 3, 4)]
    assert first == [("ours", "fp32"), ("trl", "fp32"), ("plain", "fp32"), ("ours", "bf16")]


def test_the_command_reads_a_part():
    args = command.parse(["--trl", "x", "--task", "sort", "--seeds", "2", "--kl", "0.3", "--quick"])
    assert (args.task, args.seeds, args.kl, args.quick) == (["sort"], [2], [0.3], True)

"""Clock, settings side by side, ratios, the record, the command line."""

import csv
from types import SimpleNamespace

import pytest

from specs.compare import __main__ as command
from specs.compare import processes, report, rows, runs
from specs.compare.measure import Measure, memory, pace
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
    assert (read[1]["gpu"], read[1]["note"]) == ("", "")
    assert read[1]["versions"] == "torch=2"
    assert read[1]["commit"]


def test_a_missing_environment_is_named(tmp_path):
    with pytest.raises(SystemExit, match="make bench-trl"):
        Bench(tmp_path, 1, {"trl": str(tmp_path / "none")})


def test_each_repeat_starts_with_another_competitor():
    first = [runs.turns(["ours", "trl", "plain"], repeat)[0] for repeat in (1, 2, 3, 4)]
    assert first == [("ours", "fp32"), ("trl", "fp32"), ("plain", "fp32"), ("ours", "bf16")]


def test_the_record_in_the_repository_has_the_columns_of_new_rows(root):
    with open(root / command.RESULTS, newline="") as file:
        read = list(csv.reader(file))
    assert read[0] == [*report.COLUMNS, *report.ABOUT, *report.LATER]
    assert {len(line) for line in read} == {len(read[0])}


def test_ratios_compare_a_precision_with_itself_where_trl_has_it():
    table = [
        row("trl", 1, total_s=10.0),
        {**row("trl", 1, total_s=4.0), "precision": "bf16"},
        {**row("ours", 1, total_s=2.0, gpu_peak_gb=1.0), "precision": "bf16"},
    ]
    assert report.ratios(table) == ["sort, kl 0.3, ours bf16 / TRL: time 0.50x"]


def start(tmp_path, monkeypatch, code, **options):
    """Run a job whose process executes `code`."""
    (tmp_path / "competitor.py").write_text(code)
    monkeypatch.setitem(processes.MODULES, "plain", "competitor")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    bench = Bench(tmp_path / "out", 1, {}, **options)
    return bench.run("plain", {"stage": "ppo", "out": str(tmp_path / "job")}, "competitor")


def test_a_process_that_hangs_is_stopped_and_says_so(tmp_path, monkeypatch):
    with pytest.raises(processes.Unfinished) as stopped:
        start(tmp_path, monkeypatch, "import time\ntime.sleep(60)\n", limit=1.0)
    assert stopped.value.note == "stopped after 1 s"


def test_a_process_that_fails_tells_its_last_line(tmp_path, monkeypatch):
    with pytest.raises(processes.Unfinished, match="plain: ppo failed") as failed:
        start(tmp_path, monkeypatch, "raise ValueError('no memory')\n")
    assert failed.value.note == "failed: ValueError: no memory"


def test_on_a_gpu_a_competitor_that_fails_is_a_row(tmp_path, monkeypatch):
    log = tmp_path / "log.txt"
    log.write_text("CUDA out of memory\n")

    def fail(*args):
        raise processes.Unfinished("trl: ppo", log, None)

    spec = {"ppo": {"kl": {"coef": 0.05}, "batch": 8}}
    monkeypatch.setattr(runs, "resolved", lambda *_: spec)
    bench = SimpleNamespace(device="cuda", gpu="NVIDIA X", run=fail, settings={})
    job = {"spec_file": "specs/compare/v125m.yaml", "overrides": []}
    made = runs._fixed_row(bench, "v125m", 1, "trl", "bf16", job, tmp_path)
    assert made["note"] == "failed: CUDA out of memory"
    assert (made["gpu"], made["precision"]) == ("NVIDIA X", "bf16")
    measure = Measure(so_far=tmp_path / "trl" / "ppo-bf16" / "so_far.json")
    measure.so_far.parent.mkdir(parents=True)
    measure.step()
    measure.step()
    made = runs._fixed_row(bench, "v125m", 1, "trl", "bf16", job, tmp_path)
    assert made["note"] == "failed: CUDA out of memory; figures of 2 steps"
    assert made["episodes_per_s"] > 0
    assert made["ppo_s"] is None
    bench.device = "cpu"
    with pytest.raises(SystemExit):
        runs._fixed_row(bench, "v125m", 1, "trl", "bf16", job, tmp_path)


def test_every_system_takes_a_turn_in_every_precision_asked_for():
    assert runs.turns(["ours", "trl"], 2, ["fp32", "bf16"]) == [
        ("trl", "fp32"), ("ours", "bf16"), ("trl", "bf16"), ("ours", "fp32"),
    ]  # fmt: skip


def test_on_a_cpu_sort_is_run_in_bf16_by_ours_alone_unless_it_is_asked_of_all():
    args = command.parse(["--trl", "x", "--systems", "ours", "trl"])
    assert runs.everyone(args.systems, args.precision) == [
        ("fp32", ["ours", "trl"]),
        ("bf16", ["ours"]),
    ]
    args = command.parse(["--trl", "x", "--systems", "trl"])
    assert runs.everyone(args.systems, args.precision) == [("fp32", ["trl"])]
    args = command.parse(["--trl", "x", "--systems", "ours", "trl", "--precision", "bf16"])
    assert runs.everyone(args.systems, args.precision) == [("bf16", ["ours", "trl"])]


def test_on_a_gpu_the_command_runs_the_large_tasks_once_with_a_limit():
    args = command.parse(["--trl", "x", "--device", "cuda"])
    assert (args.task, args.repeats, args.limit) == (["v125m", "v1300m"], 1, 90.0)
    assert args.precision == ["fp32", "bf16"]
    assert command.parse(["--trl", "x"]).task == ["sort", "v4096", "v50257"]


def test_the_command_reads_a_part():
    args = command.parse(["--trl", "x", "--task", "sort", "--seeds", "2", "--kl", "0.3", "--quick"])
    assert (args.task, args.seeds, args.kl, args.quick) == (["sort"], [2], [0.3], True)

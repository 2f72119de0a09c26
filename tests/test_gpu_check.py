"""make gpu-check: the logic of its steps with fake commands, its limits, and what it refuses."""

import os
import subprocess
import sys

import pytest

from tests import gpu_check, gpu_machine, gpu_steps
from tests.gpu_steps import Step

GPU = {"torch": "2.13.0", "cuda": "13.0", "device": "a GPU", "capability": [9, 0]}


def python(code):
    return (sys.executable, "-c", code)


def run(tmp_path, *steps, longer=1):
    return gpu_check.run_steps(steps, dict(os.environ), tmp_path, longer)


def test_a_failed_step_does_not_stop_the_next_and_shows_its_log(tmp_path, capsys):
    steps = (
        Step("test", "first", python("print('3 passed in 1 s')"), 20, r"\d+ passed.*"),
        Step("test", "second", python("print('the reason'); raise SystemExit(3)"), 20),
        Step("test", "third", python(""), 20),
    )
    first, second, third = run(tmp_path, *steps)
    assert (first.passed, first.result) == (True, "3 passed in 1 s")
    assert (second.passed, second.result) == (False, "failed with status 3")
    assert third.passed
    assert "    the reason" in capsys.readouterr().out
    assert (tmp_path / "second.log").read_text() == "the reason\n"
    table = gpu_check.summarize([first, second, third])
    assert "FAIL second" in table
    assert table.count("ok  ") == 2


def test_a_step_is_stopped_at_its_limit_with_its_children(tmp_path):
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; " + (
        "time.sleep(60)'])"
    )
    (outcome,) = run(tmp_path, Step("test", "slow", python(child), 1))
    assert not outcome.passed
    assert outcome.result == "stopped at its limit of 1 s"
    assert outcome.seconds < 20


STOPPED = """
import os, signal, time

def test_wrong():
    assert 1 + 1 == 3

def test_stopped():
    time.sleep(2)  # for the report of the other, where it comes from another process
    os.kill(os.{process}(), signal.SIGKILL)
"""


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "workers"])
def test_what_failed_is_named_though_pytest_is_killed(tmp_path, workers):
    file = tmp_path / "test_stopped.py"
    file.write_text(STOPPED.format(process="getppid" if workers else "getpid"))
    (_, *command), *_ = (step.command for step in gpu_steps.test_steps(tmp_path))
    plugin = command[command.index("-p") :][:2]
    place = ("--rootdir", str(tmp_path), str(file))
    command = (sys.executable, "-m", "pytest", "-q", *plugin, *workers, *place)
    (outcome,) = run(tmp_path, Step("test", "killed", command, 60, r"\d+ passed.*"))
    assert outcome.result == "failed with status -9; failed: test_stopped.py::test_wrong"
    log = (tmp_path / "killed.log").read_text()
    assert "FAILED test_stopped.py::test_wrong - assert (1 + 1) == 3" in log


def test_failed_tests_are_named_in_the_summary_once_and_not_all():
    step = Step("test", "toolkit", (), 85, r"\d+ passed.*")
    names = [f"tests/test_a.py::test_b[llama, grouped heads-{i}]" for i in range(7)]
    text = "".join(f"FAILED {name} - assert 1 == 2\n" for name in names[:2])
    result, passed = gpu_check.judge(step, None, text + text, 1)
    assert not passed
    assert result == f"stopped at its limit of 85 s; failed: {names[0]}, {names[1]}"
    text = "\n".join(f"FAILED {name}" for name in names) + "\n7 failed, 9 passed in 3 s\n"
    result, _ = gpu_check.judge(step, 1, text, 1)
    assert result.startswith("failed with status 1: 9 passed in 3 s; failed: tests/test_a.py")
    assert result.endswith("grouped heads-4], 2 more")


def test_success_without_the_expected_words_is_a_failure(tmp_path):
    (outcome,) = run(tmp_path, Step("test", "empty", python("print('0 ran')"), 20, r"\d+ passed"))
    assert not outcome.passed
    assert "does not say" in outcome.result


def test_a_planted_fault_must_be_seen(tmp_path):
    loud = python("print('Invalid __global__ read'); raise SystemExit(9)")
    quiet = python("print('Invalid __global__ read')")
    wrong = python("raise SystemExit(9)")
    steps = [
        Step("sanitize", f"fault {i}", code, 20, "Invalid __global__ read", fails=True)
        for i, code in enumerate((loud, quiet, wrong))
    ]
    assert [outcome.passed for outcome in run(tmp_path, *steps)] == [True, False, False]


def test_what_cannot_run_is_a_row_with_its_reason(tmp_path):
    skipped, failed = run(
        tmp_path,
        Step("sanitize", "memcheck", reason="no tool"),
        Step("build", "build", needed=True, reason="no nvcc"),
    )
    assert (skipped.result, skipped.passed) == ("skipped: no tool", True)
    assert (failed.result, failed.passed) == ("skipped: no nvcc", False)


def test_nothing_runs_with_an_older_module_when_the_build_failed(tmp_path):
    first, second = run(
        tmp_path,
        Step("build", "compile", python("raise SystemExit(1)"), 20, needed=True),
        Step("test", "tests", python(""), 20),
    )
    assert not first.passed
    assert (second.result, second.passed) == ("not run, since compile failed", False)


def test_all_limits_together_are_eight_minutes(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_steps, "find_cuda_tool", lambda name: name)
    monkeypatch.setattr(gpu_steps, "find_tool", lambda name: name)
    monkeypatch.setattr(gpu_steps, "is_missing", lambda name: False)
    monkeypatch.setattr(gpu_steps.os, "cpu_count", lambda: 16)
    steps = gpu_steps.make_steps(gpu_steps.GROUPS, tmp_path, "90a-real", False)
    assert {step.group for step in steps} == set(gpu_steps.GROUPS)
    assert all(step.command for step in steps)
    assert sum(step.limit for step in steps) <= 480
    only = gpu_steps.make_steps(["sanitize"], tmp_path, "", False)
    assert [step.name for step in only][1:] == ["memcheck", "racecheck"]


def test_missing_tools_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_steps, "find_cuda_tool", lambda name: None)
    monkeypatch.setattr(gpu_steps, "is_missing", lambda name: name in ("omegaconf", "rich"))
    steps = {step.name: step for step in gpu_steps.make_steps(gpu_steps.GROUPS, tmp_path, "", True)}
    assert steps["build"].reason.startswith("nvcc is neither")
    assert steps["memcheck, racecheck"].reason.startswith("compute-sanitizer is neither")
    assert steps["toolkit"].reason == "this Python lacks omegaconf, rich"


@pytest.mark.parametrize(
    ("found", "groups", "words"),
    [
        ({}, ["test"], "has no torch"),
        ({**GPU, "torch": "2.9.1"}, ["build"], "older than 2.11"),
        ({**GPU, "device": None}, ["build", "test"], "sees no GPU"),
        ({**GPU, "device": None}, ["build"], None),
        (GPU, ["build", "test", "bench"], None),
    ],
)
def test_a_machine_that_cannot_is_told_in_one_sentence(found, groups, words):
    sentence = gpu_machine.refuse(found, groups)
    assert (sentence is None) == (words is None)
    assert sentence is None or words in sentence


@pytest.mark.parametrize(
    ("capability", "arches"),
    [([9, 0], "90a-real"), ([8, 6], "80-real"), ([12, 0], "90-virtual")],
)
def test_the_build_is_for_the_device(capability, arches):
    assert gpu_steps.choose_arches({"capability": capability}) == arches
    assert "80-real" in gpu_steps.choose_arches({})


def test_without_a_gpu_the_command_ends_at_once(root, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU, so the command would run everything")
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu_check", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=root,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "sees no GPU" in done.stderr
    assert "compute-sanitizer" in (tmp_path / "environment.txt").read_text()


def test_unknown_groups_are_refused(capsys):
    with pytest.raises(SystemExit):
        gpu_check.read_arguments(["--only", "build,tests"])
    assert "not tests" in capsys.readouterr().err

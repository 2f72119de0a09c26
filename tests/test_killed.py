"""kill -9 in the middle of stages, then the same command again: the same bits as without."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.end_to_end import SPEC, weights

KILLED = {
    "pretrain": 10, "sft": 40, "init": 10, "collect.1": 4, "reward.1": 12, "select": 4, "ppo.1": 4,
}  # fmt: skip
"""Stage -> lines of metrics after which the process is killed; checkpoints come every 3 steps."""

WIDER = (
    "sft.epochs=16",
    "sft.batch=64",
    "sft.select=reward",
    "ppo.init={length: 16, batch: 16, lr: 1e-3}",
)
"""Sixteen epochs: `select`, a step of which takes milliseconds, must not be over before a kill."""


def start(out, *overrides):
    command = [sys.executable, "-m", "toolkit", "run", str(SPEC), f"out={out}", *overrides]
    command += ["checkpoint.every=3 steps", *WIDER]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(process, out, stage, lines, seconds=120.0):
    """Wait until the running stage has written `lines` lines of metrics."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        for path in (out / "stages" / ".partial").glob(f"{stage}-*/metrics.jsonl"):
            if path.read_text().count("\n") >= lines:
                return
        time.sleep(0.002)
    pytest.fail(f"{stage} never reached {lines} lines: {process.stdout.read()[-2000:]}")


def finish(process):
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed[-2000:]
    return printed


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    finish(start(out))
    return weights(out)


def test_killed_in_every_stage_the_run_ends_in_the_same_bits(uninterrupted, tmp_path):
    out = tmp_path / "run"
    said = []
    for stage, lines in KILLED.items():
        process = start(out)
        wait_for(process, out, stage, lines)
        os.kill(process.pid, signal.SIGKILL)
        said.append(process.communicate()[0])
        assert not (out / "stages" / stage).exists(), f"{stage} was over before the kill"
    said.append(finish(start(out)))
    for stage, printed in zip(KILLED, said[1:], strict=True):
        assert f"{stage} continues at step" in printed, printed[-2000:]
    assert weights(out) == uninterrupted

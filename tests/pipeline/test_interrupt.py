"""Ctrl-C in a stage: its step is saved, or the stage finished; the next run goes on from there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.end_to_end import SPEC, run_tiny, weights
from toolkit.pipeline.events import Silent
from toolkit.pipeline.interrupt import Interrupts
from toolkit.pipeline.runner import prepare, run
from toolkit.pipeline.store import Store
from toolkit.spec.load import load_spec

UNTIL = ("data.task.demonstrations=64", "pretrain.steps=6", "sft.epochs=2")


def press_ctrl_c() -> None:
    """Send SIGINT to this process, as a terminal does."""
    os.kill(os.getpid(), signal.SIGINT)


class PressesCtrlC(Silent):
    """Presses Ctrl-C at steps of a stage."""

    def __init__(self, stage: str, *steps: int) -> None:
        self.stage, self.steps, self.name = stage, steps, ""

    def begin(self, name: str, why: str) -> None:
        self.name = name

    def step(self, step, total, metrics) -> None:
        for _ in range(self.steps.count(step) if self.name == self.stage else 0):
            press_ctrl_c()


def loaded(out, *overrides):
    return load_spec(SPEC, [f"out={out}", *UNTIL, *overrides])


def fate(out):
    return {d.node.name: d.why for d in prepare(loaded(out), "sft")[1]}


def test_ctrl_c_saves_the_step_and_the_next_run_ends_in_the_same_bits(tmp_path):
    run_tiny(tmp_path / "whole", *UNTIL, until="sft")
    out = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        run(loaded(out), "sft", display=PressesCtrlC("pretrain", 2))
    assert fate(out)["pretrain"] == "interrupted at step 2 of 6: from its last checkpoint"
    run(loaded(out), "sft")
    assert weights(out) == weights(tmp_path / "whole")


@pytest.mark.parametrize("steps", [(2, 2), (6, 6)])
def test_a_second_ctrl_c_stops_at_once(tmp_path, steps):
    with pytest.raises(KeyboardInterrupt):
        run(loaded(tmp_path), "sft", display=PressesCtrlC("pretrain", *steps))
    assert fate(tmp_path)["pretrain"].endswith("before its first checkpoint")


def test_ctrl_c_in_the_last_step_stops_when_the_stage_is_done(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(loaded(tmp_path), "sft", display=PressesCtrlC("pretrain", 6))
    assert fate(tmp_path)["pretrain"].startswith("same inputs")
    assert fate(tmp_path)["sft"] == "not run yet"


def test_ctrl_c_while_a_result_is_published_stops_when_it_is(tmp_path, monkeypatch):
    publish = Store.publish

    def interrupted(self, name, done):
        if name == "pretrain":
            press_ctrl_c()
        return publish(self, name, done)

    monkeypatch.setattr(Store, "publish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(loaded(tmp_path), "sft")
    assert fate(tmp_path)["pretrain"].startswith("same inputs")


FINISHES = """
import os, signal, sys
from toolkit.__main__ import main
from toolkit.stages.pretrain import Pretrain

def finish(stage, finish=Pretrain.finish):
    for _ in range(int(sys.argv[1])):
        os.kill(os.getpid(), signal.SIGINT)
    return finish(stage)

Pretrain.finish = finish
sys.exit(main(["run", *sys.argv[2:]]))
"""
"""A run in which Ctrl-C is pressed so many times when a stage begins to finish."""


@pytest.mark.parametrize(("times", "done"), [(1, True), (2, False)])
def test_ctrl_c_while_a_stage_finishes_waits_once_and_the_command_ends_with_130(
    tmp_path, times, done
):
    command = [sys.executable, "-c", FINISHES, str(times), str(SPEC), f"out={tmp_path}", *UNTIL]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 130, ended.stderr
    assert "pretrain: stops after this step with a checkpoint, or when the stage is" in ended.stderr
    assert ended.stderr.endswith("interrupted; run the same command again to continue\n")
    assert (tmp_path / "stages/pretrain/done.json").exists() == done
    assert not (tmp_path / "stages/sft").exists()
    assert ("pretrain: done in" in ended.stderr) == done


def test_a_stream_that_is_being_written_to_does_not_break_the_wait():
    def reenters() -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    with Interrupts() as interrupts:
        interrupts.hold(reenters)
        press_ctrl_c()
        assert interrupts.asked


def test_ctrl_c_interrupts_at_once_before_there_is_work_to_lose():
    with pytest.raises(KeyboardInterrupt), Interrupts():
        press_ctrl_c()


def test_the_handler_that_was_there_comes_back():
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        interrupts.hold(lambda: None)
        press_ctrl_c()
        assert interrupts.asked
    assert signal.getsignal(signal.SIGINT) is before

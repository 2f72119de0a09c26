"""Ctrl-C in a stage: the step is finished and saved, and the next run goes on from there."""

from __future__ import annotations

import os
import signal

import pytest

from tests.end_to_end import SPEC, run_tiny, weights
from toolkit.pipeline.events import Silent
from toolkit.pipeline.runner import prepare, run
from toolkit.spec.load import load_spec
from toolkit.training.interrupt import interrupts_wait

UNTIL = ("data.task.demonstrations=64", "pretrain.steps=6", "sft.epochs=2")


class PressesCtrlC(Silent):
    """Sends SIGINT to this process, as a terminal does, at steps of a stage."""

    def __init__(self, stage: str, *steps: int) -> None:
        self.stage, self.steps, self.name = stage, steps, ""

    def begin(self, name: str, why: str) -> None:
        self.name = name

    def step(self, step, total, metrics) -> None:
        for _ in range(self.steps.count(step) if self.name == self.stage else 0):
            os.kill(os.getpid(), signal.SIGINT)


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


@pytest.mark.parametrize(("stage", "steps"), [("pretrain", (2, 2)), ("pretrain", (6,))])
def test_a_second_ctrl_c_and_one_in_the_last_step_stop_at_once(tmp_path, stage, steps):
    with pytest.raises(KeyboardInterrupt):
        run(loaded(tmp_path), "sft", display=PressesCtrlC(stage, *steps))
    assert fate(tmp_path)[stage].endswith("before its first checkpoint")


def test_a_stream_that_is_being_written_to_does_not_break_the_wait():
    def reenters() -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    with interrupts_wait(lambda: True, reenters) as interrupted:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupted()


def test_the_handler_that_was_there_comes_back():
    before = signal.getsignal(signal.SIGINT)
    with interrupts_wait(lambda: True, lambda: None) as interrupted:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupted()
    assert signal.getsignal(signal.SIGINT) is before

"""The tiny pipeline on a real GPU: whole, reused, and killed and resumed to the same bits."""

import os
import signal

import pytest
import torch

pytest.importorskip("omegaconf", reason="specs are read with omegaconf, which is not installed")

from tests.end_to_end import STAGES, done, run_tiny, weights
from tests.models.judged import assert_as_accurate, judge
from tests.models.sampled import EVERY, PADDED, SEED, answer
from tests.test_killed import KILLED, finish, start, wait_for
from tests.tiny import tiny_text
from toolkit.models.graphs import Recordings
from toolkit.models.heads import Policy
from toolkit.models.load import load_base
from toolkit.pipeline import gpu
from toolkit.spec.schema import Hardware, Sampling
from toolkit.training.random import Stream

pytestmark = pytest.mark.cuda
CUDA = "hardware.device=cuda"
STOPPED = ("sft", "ppo.1")  # a start of the process takes longer here than the stages


@pytest.fixture(scope="module", autouse=True)
def _usable():
    if (against := gpu.obstacle()) is not None:
        pytest.skip(against)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cuda") / "run"
    run_tiny(folder, CUDA)
    return folder


def test_every_stage_runs_on_the_gpu(out):
    for stage in STAGES:
        held = done(out, stage)
        computes = bool(held["parts"]["hardware"])
        if computes:
            assert held["parts"]["hardware"]["device"].startswith("cuda "), stage
        assert held["device_memory"] is not None, stage
    for stage in ("pretrain", "sft", "collect.1", "reward.1", "ppo.1", "evaluate"):
        assert done(out, stage)["device_memory"] > 0, stage


def test_the_first_minibatch_has_ratio_one(out):
    assert done(out, "ppo.1")["summary"]["audit"]["max_ratio_error"] <= 1e-3


def test_a_second_run_reuses_every_stage(out):
    assert {d.action for d in run_tiny(out, CUDA).decisions} == {"cached"}


def test_the_gpu_trains_as_the_cpu_does(out, tmp_path):
    """The first steps differ by rounding alone: same data, same weights, same draws."""
    run_tiny(tmp_path / "cpu", "hardware.device=cpu", until="sft")
    there, here = done(out, "pretrain")["summary"], done(tmp_path / "cpu", "pretrain")["summary"]
    assert there["valid_loss"] == pytest.approx(here["valid_loss"], rel=1e-3)


def test_the_same_run_twice_gives_the_same_bits(out, tmp_path):
    run_tiny(tmp_path / "again", CUDA)
    assert weights(tmp_path / "again") == weights(out)


def test_killed_in_training_the_run_ends_in_the_same_bits(tmp_path):
    finish(start(tmp_path / "whole", CUDA))
    out, said = tmp_path / "run", []
    for stage in STOPPED:
        process = start(out, CUDA)
        wait_for(process, out, stage, KILLED[stage])
        os.kill(process.pid, signal.SIGKILL)
        said.append(process.communicate()[0])
        assert not (out / "stages" / stage).exists(), f"{stage} was over before the kill"
    said.append(finish(start(out, CUDA)))
    for stage, printed in zip(STOPPED, said[1:], strict=True):
        assert f"{stage} continues at step" in printed, printed[-2000:]
    assert weights(out) == weights(tmp_path / "whole")


def test_bf16_runs_too(tmp_path):
    run_tiny(tmp_path / "run", CUDA, "hardware.precision=bf16", until="ppo")
    assert done(tmp_path / "run", "ppo.1")["summary"]["optimizer_steps"] == 24


@pytest.mark.parametrize(
    ("name", "precision"),
    [*((name, "fp32") for name in EVERY), ("gpt2", "bf16"), ("llama, grouped heads", "bf16")],
)
def test_recorded_steps_sample_as_sampling_without_them_does(name, precision):
    """In fp32 the same tokens; in bf16 each as near fp32, as tests/models/test_bf16_steps.py."""
    text, how = tiny_text(), Sampling(top_k=9)
    model = load_base(EVERY[name], text, Stream(1, "base"), "cuda")
    recorded = Policy(model, text.vocab, Hardware(precision=precision))
    plain = Policy(model, text.vocab, Hardware(precision=precision, cuda_graphs="off"))
    answer(recorded, text, PADDED, range(26), how, most=40)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    ours, again, theirs = (
        answer(policy, text, PADDED, range(26), how, most=40)
        for policy in (recorded, recorded, plain)
    )
    assert isinstance(recorded.steps, Recordings)
    assert ours.ids == again.ids
    assert [ids[0] for ids in ours.ids] == [ids[0] for ids in theirs.ids]
    assert precision == "bf16" or ours.ids == theirs.ids
    draws = (SEED, range(26), how)
    assert_as_accurate(*(judge(plain, text, PADDED, x, draws) for x in (ours, theirs)))


def test_a_stage_stands_apart_from_the_number_of_micro_batches(out, tmp_path):
    """A micro-batch changes the order of sums only."""
    run_tiny(tmp_path / "run", CUDA, "hardware.micro_batch=4", until="pretrain")
    there, whole = done(tmp_path / "run", "pretrain")["summary"], done(out, "pretrain")["summary"]
    assert there["valid_loss"] == pytest.approx(whole["valid_loss"], rel=1e-3)

"""Moving to the device and reading back; a device that cannot be used is refused by name."""

import os
import platform
import subprocess
import sys

import pytest
import torch

import rlhf_kernels
from toolkit.spec.errors import StageFailed
from toolkit.training.device import move, peak_device_memory, prepare_device, read, read_rows


def test_nothing_moves_on_a_cpu():
    tensor = torch.ones(2)
    assert move(tensor, torch.device("cpu")) is tensor
    assert peak_device_memory("cpu") is None


def test_numbers_come_back_in_order_and_at_once():
    values = [torch.tensor(0.1), torch.tensor(2.0)]
    assert read(values) == [float(value) for value in values]
    assert read([]) == []
    assert read_rows([values, values[::-1]]) == [read(values), read(values)[::-1]]
    assert read_rows([]) == []


def test_a_gpu_that_torch_cannot_use_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(StageFailed, match=r"torch cannot use the GPU .* hardware\.device: cpu"):
        prepare_device("cuda", deterministic=False)


def test_kernels_without_cuda_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(rlhf_kernels, "has_cuda", lambda: False)
    with pytest.raises(StageFailed, match="no CUDA kernels: reinstall with nvcc on PATH"):
        prepare_device("cuda", deterministic=False)


def test_the_deterministic_setting_of_cublas_is_made_before_cuda_is_asked(monkeypatch):
    seen = []
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(
        torch.cuda,
        "is_available",
        lambda: seen.append(os.environ.get("CUBLAS_WORKSPACE_CONFIG")) or False,
    )
    for wanted in (False, True):
        with pytest.raises(StageFailed):
            prepare_device("cuda", deterministic=wanted)
    assert seen == [None, ":4096:8"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the limits are glibc's")
def test_blocks_that_every_step_takes_again_keep_their_pages():
    program = """
import resource, torch
from toolkit.training.device import set_up_memory
set_up_memory()
def step():
    held = [torch.ones(3 * 2**18) for _ in range(8)]  # 3 MiB each
for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 6144  # the pages of one step

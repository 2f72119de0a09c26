"""Moving to the device and reading back; a device that cannot be used is refused by name."""

import os

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

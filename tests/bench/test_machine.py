"""What is said about the machine is measured, or absent."""

import pytest
import torch

from rlhf_kernels.bench import machine


def test_peak_memory_sees_a_tensor_that_is_freed_again():
    peak = machine.measure_peak_memory(lambda: torch.ones(8 * 2**20).sum())
    if peak is None:
        pytest.skip("this system does not count resident pages")
    assert 31 < peak < 40


def test_peak_memory_does_not_count_what_was_there_before():
    held = torch.ones(8 * 2**20)
    peak = machine.measure_peak_memory(lambda: held.sum())
    if peak is None:
        pytest.skip("this system does not count resident pages")
    assert peak < 4


def test_peak_memory_is_absent_without_the_counter(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CLEAR_REFS", tmp_path / "missing")
    assert machine.measure_peak_memory(lambda: None) is None


def test_bandwidths_are_positive():
    read, update = machine.measure_bandwidth(seconds=0.0)
    assert read > 0
    assert update > 0


def test_peak_memory_counts_heap_that_was_resident_before():
    # Small enough to come from the heap, where freed memory stays resident behind a live block.
    def work():
        return [torch.ones(16_000) for _ in range(200)]

    last = (work(), torch.ones(16_000))[1]
    peak = machine.measure_peak_memory(work)
    if peak is None:
        pytest.skip("this system does not count resident pages")
    assert peak > 10
    assert last.sum() == 16_000

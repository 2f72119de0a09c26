"""What is said about a GPU is read or measured, or absent; and which device is chosen is said."""

import pytest
import torch

from rlhf_kernels import _registry
from rlhf_kernels.bench import device_machine
from rlhf_kernels.bench.device_machine import choose_device, parse_smi, to_number
from tests.bench.clocks import FakeClock


class SlowClock(FakeClock):
    """Every call takes a millisecond, except the third: the fastest."""

    def time_calls(self, calls):
        for call in calls:
            call()
        self.groups.append(len(calls))
        return [5e-4 if len(self.groups) == 3 else 1e-3]


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(_registry, "has_cuda", lambda: True)


@pytest.mark.usefixtures("gpu")
def test_cuda_is_the_default_where_it_runs():
    assert choose_device(None)[0] == "cuda"
    assert choose_device("cpu")[0] == "cpu"


def test_cpu_is_the_default_elsewhere_and_the_reason_is_said(gpu, monkeypatch):
    monkeypatch.setattr(_registry, "has_cuda", lambda: False)
    device, reason = choose_device(None)
    assert device == "cpu"
    assert "no CUDA kernels" in reason
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "finds no CUDA device" in choose_device(None)[1]
    with pytest.raises(ValueError, match="--device cuda: torch finds no CUDA device"):
        choose_device("cuda")


def test_lines_of_nvidia_smi_are_read():
    told = parse_smi("580.65.06, 700.00, 1980, 3201\n")
    assert told["driver_version"] == "580.65.06"
    assert to_number(told["power.limit"]) == 700
    assert to_number(told["clocks.mem"]) == 3201


@pytest.mark.parametrize("line", ["", "No devices were found", "580, 700.00, 1980"])
def test_other_answers_of_nvidia_smi_give_nothing(line):
    assert parse_smi(line) == {}


def test_what_is_not_available_is_absent():
    assert to_number("[N/A]") is None
    assert to_number("") is None


def test_rates_are_those_of_the_fastest_pass(monkeypatch):
    monkeypatch.setattr(_registry, "has_cuda", lambda: False)
    read, copied = device_machine.measure_rates(SlowClock(), "cpu", 4096)
    assert read is None
    assert copied == pytest.approx(2 * 4096 / 5e-4 / 1e9)


def test_reads_are_measured_where_the_build_has_a_probe(monkeypatch):
    def probe(tensor, out):
        assert (tensor.numel(), out.shape) == (1024, (1024,))

    monkeypatch.setattr(_registry, "has_cuda", lambda: True)
    monkeypatch.setattr(_registry, "read_probe", probe)
    read, _ = device_machine.measure_rates(SlowClock(), "cpu", 4096)
    assert read == pytest.approx(4096 / 1e-3 / 1e9)


def test_product_rate_counts_two_operations_per_term():
    assert device_machine.measure_matmul(SlowClock(), "cpu", 16) == pytest.approx(
        2 * 16**3 / 5e-4 / 1e12
    )

"""The device clock against a pretended stream: what is queued in which order, and what is timed."""

import contextlib
import types

import pytest
import torch

from rlhf_kernels.bench import device_machine
from rlhf_kernels.bench.device_clock import HEAD_START, REPLAYS, DeviceClock


class Stream:
    """Stands for torch.cuda: a queue whose time passes only through what is queued."""

    def __init__(self):
        self.seconds = 0.0
        self.log = []
        self.held = 0.0

    def work(self, seconds, name="work"):
        def call():
            self.log.append(name)
            self.seconds += seconds
            return name

        return call


@pytest.fixture
def stream(monkeypatch):
    stream = Stream()

    class Event:
        def __init__(self, enable_timing=False):
            assert enable_timing

        def record(self):
            stream.log.append("event")
            self.at = stream.seconds

        def elapsed_time(self, other):
            assert stream.log[-1] == "synchronize"
            return 1e3 * (other.at - self.at)

    class Graph:
        def replay(self):
            stream.log.append("replay")
            stream.seconds += stream.held

    @contextlib.contextmanager
    def capture(graph):
        before = stream.seconds
        yield
        stream.held = stream.seconds - before
        stream.seconds = before

    def sleep(cycles):
        assert cycles == HEAD_START
        stream.log.append("idle")
        stream.seconds += 2e-4

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "_sleep", sleep)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: stream.log.append("synchronize"))
    return stream


def test_calls_are_timed_without_the_head_start_and_waited_for_once(stream):
    times = DeviceClock().time_calls([stream.work(1e-3, "a"), stream.work(2e-3, "b")])
    assert times == pytest.approx([1e-3, 2e-3])
    one, other = (["idle", "event", name, "event"] for name in "ab")
    assert stream.log == [*one, *other, "synchronize"]


def test_graph_time_is_per_call_and_restores_before_each_replay(stream):
    calls = [stream.work(1e-5), stream.work(3e-5)]
    seconds = DeviceClock().time_graph(calls, stream.work(1.0, "restore"))
    assert seconds == pytest.approx(2e-5)
    assert stream.log.count("replay") == stream.log.count("restore") == REPLAYS
    assert stream.log[stream.log.index("replay") - 3] == "restore"


def test_host_time_counts_every_call_and_waits_before_and_after(stream):
    seconds = DeviceClock().time_host([stream.work(0.0)] * 4)
    assert seconds > 0
    assert stream.log == ["synchronize", *["work"] * 4, "synchronize"]


def test_a_device_is_described_where_nvidia_smi_is_missing(stream, monkeypatch):
    found = types.SimpleNamespace(
        name="NVIDIA H200", uuid="1-2", major=9, minor=0, L2_cache_size=50 * 2**20
    )
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: found)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(device_machine.shutil, "which", lambda name: None)
    monkeypatch.setattr(device_machine, "measure_rates", lambda *args: (None, 4300.0))
    monkeypatch.setattr(device_machine, "measure_matmul", lambda *args: 790.0)
    machine = device_machine.describe_device(DeviceClock())
    assert (machine.device, machine.isa, machine.cuda) == ("NVIDIA H200", "sm_90", "13.0")
    assert (machine.driver, machine.power_limit_w, machine.l2_mib) == ("", None, 50.0)
    assert (machine.read_gb_s, machine.update_gb_s) == (None, 4300.0)


def test_clocks_that_nobody_tells_are_absent(stream, monkeypatch):
    found = types.SimpleNamespace(uuid="1-2")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: found)
    monkeypatch.setattr(device_machine.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(device_machine, "ask_smi", lambda device: {"clocks.sm": "1980"})
    assert device_machine.read_clocks() == (1980.0, None)

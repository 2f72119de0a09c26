"""Which device a run gets, why, and what its keys say; no torch needed, no GPU needed."""

import ctypes

import pytest
import torch

import rlhf_kernels
from toolkit.cli import doctor
from toolkit.pipeline import gpu
from toolkit.pipeline.machine import describe, resolve_machine
from toolkit.spec.errors import DoesNotFit
from toolkit.spec.schema import Hardware

CARD = gpu.Gpu(name="NVIDIA H200", capability=(9, 0), memory=140 * 2**30, driver=(13, 0))
OLD = gpu.Gpu(name="Tesla V100", capability=(7, 0), memory=2**34, driver=(13, 0))
BEHIND = gpu.Gpu(name="NVIDIA A100", capability=(8, 0), memory=2**34, driver=(12, 4))


@pytest.fixture
def machine(monkeypatch):
    """Make the machine one with this GPU, torch and kernels."""

    def make(card=CARD, torch_for="13.0", kernels=True):
        monkeypatch.setattr(gpu, "find_gpu", lambda: card)
        monkeypatch.setattr(gpu, "torch_cuda", lambda: torch_for)
        monkeypatch.setattr(gpu, "kernels_have_cuda", lambda: kernels)

    return make


CASES = [
    ({"card": "no NVIDIA GPU is here"}, "no NVIDIA GPU is here"),
    ({"card": OLD}, "Tesla V100 has compute capability 7.0, the kernels need 8.0"),
    (
        {"torch_for": None},
        "a GPU is here, but this torch is built without CUDA: install a build of torch for",
    ),
    ({"card": BEHIND}, "torch is built for CUDA 13.0, the driver knows only 12.4: update the"),
    (
        {"kernels": False},
        "a GPU is here, but this build of rlhf_kernels has no CUDA kernels: reinstall with nvcc",
    ),
]


@pytest.mark.parametrize(("parts", "cause"), CASES)
def test_auto_works_on_the_cpu_and_says_why(machine, parts, cause):
    machine(**parts)
    made = resolve_machine(Hardware())
    assert (made.device, made.gpu, made.device_text) == ("cpu", None, "cpu")
    assert made.why.startswith(f"device cpu (auto: {cause}")


@pytest.mark.parametrize(("parts", "cause"), CASES)
def test_cuda_where_it_cannot_be_is_an_error_with_the_fix(machine, parts, cause):
    machine(**parts)
    with pytest.raises(DoesNotFit) as caught:
        resolve_machine(Hardware(device="cuda"))
    text = str(caught.value)
    assert text.startswith(f"hardware.device is cuda: {cause}")
    assert text.endswith("or set hardware.device: cpu")
    assert "\n" not in text


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_usable_gpu_is_used_and_its_name_is_part_of_the_key(machine, device):
    machine()
    made = resolve_machine(Hardware(device=device))
    assert (made.device, made.device_text) == ("cuda", "cuda NVIDIA H200")
    assert made.why.startswith("device cuda NVIDIA H200 (")
    assert describe(made)["device"] == "cuda NVIDIA H200"


def test_cpu_is_cpu_whatever_is_there(machine):
    machine()
    assert resolve_machine(Hardware(device="cpu")).device_text == "cpu"


def test_the_builds_are_read_from_disk_as_they_say_themselves():
    assert gpu.torch_cuda() == torch.version.cuda
    assert gpu.kernels_have_cuda() == rlhf_kernels.has_cuda()


def test_device_code_is_found_by_its_section(tmp_path):
    for content, found in ((b"\0.text\0.nv_fatbin\0", True), (b"\0.text\0.data\0", False)):
        path = tmp_path / "_C.so"
        path.write_bytes(content)
        assert gpu._marked(path) is found


class Driver:
    """What libcuda answers on a machine with one GPU."""

    def __init__(self, code=0, count=1):
        self.code, self.count = code, count

    def cuInit(self, flags):
        return self.code

    def cuDeviceGetCount(self, out):
        out._obj.value = self.count

    def cuDeviceGet(self, out, ordinal):
        out._obj.value = ordinal

    def cuDeviceGetName(self, text, size, device):
        text.value = b"NVIDIA H200"

    def cuDeviceGetAttribute(self, out, attribute, device):
        out._obj.value = {75: 9, 76: 0}[attribute]

    def cuDeviceTotalMem_v2(self, out, device):
        out._obj.value = 140 * 2**30

    def cuDriverGetVersion(self, out):
        out._obj.value = 13000


@pytest.mark.parametrize(
    ("driver", "found"),
    [
        (Driver(), CARD),
        (Driver(count=0), "the driver shows no GPU: look at CUDA_VISIBLE_DEVICES and at nvidia"),
        (Driver(code=100), "the driver shows no GPU"),
        (Driver(code=803), "the NVIDIA driver does not start (error 803)"),
    ],
)
def test_the_driver_is_asked_without_torch(monkeypatch, driver, found):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    got = gpu.find_gpu.__wrapped__()
    assert got == found if isinstance(found, gpu.Gpu) else got.startswith(found)


def test_doctor_says_what_keeps_runs_from_the_gpu(machine):
    machine(kernels=False)
    line = doctor._gpu()
    assert line.state == "note"
    assert line.text.startswith("NVIDIA H200, 140.0 GiB, compute capability 9.0, driver for CUDA")
    assert "runs use the CPU: a GPU is here, but this build of rlhf_kernels has no" in line.text
    assert doctor._cuda().text == "torch for CUDA 13.0, kernels without CUDA"
    machine(card="no NVIDIA GPU is here")
    assert doctor._gpu().text == "no NVIDIA GPU is here; runs use the CPU"

"""What every test gets: a fixed thread count, the real data's folder, a planted tree."""

import os

# Before torch is imported. Results do not depend on it; speed and noise do.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # several test processes share the cores
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path

import pytest


def pytest_addoption(parser):
    """The option of tests/cuda; options belong to the outermost conftest."""
    parser.addoption(
        "--emulated", action="store_true", help="tests/cuda: run the CUDA kernels on the host"
    )


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def fixed_threads():
    """Give torch back its threads and its matrix products after a test that changed them."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    yield
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real inputs."""
    folder = os.environ.get("RLHF_DATA")
    if not folder:
        pytest.skip("RLHF_DATA names no folder with the real data files")
    return Path(folder)


@pytest.fixture
def plant(tmp_path):
    """Write a small tree: plant({"toolkit/a.py": "text"}) returns its root."""

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    return write

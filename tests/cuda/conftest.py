"""The CUDA kernels' tests: on a GPU (`-m cuda`), or with the same kernels run on the host.

`pytest tests/cuda --emulated` loads the module that `make emulated` builds, whose CUDA kernels are
compiled for the host, and hands it CPU tensors as if they were on a device: the same assertions
without a GPU. What only a device can show (streams, graphs, size) is in test_device.py.
"""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from tests.cuda.device import Column

ROOT = Path(__file__).resolve().parents[2]


def load_emulated():
    """Put the emulated module in the place of the real one; must run before rlhf_kernels loads."""
    found = sorted((ROOT / "build" / "emulated").glob("_C*.so"))
    if not found:
        raise pytest.UsageError(
            "--emulated needs `make emulated` first: build/emulated has no _C*.so"
        )
    spec = importlib.util.spec_from_file_location("rlhf_kernels._C", found[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["rlhf_kernels._C"] = module


def pytest_configure(config):
    if config.getoption("--emulated"):
        load_emulated()


def pytest_collection_modifyitems(config, items):
    """Every test of this folder needs a GPU, unless it is emulated."""
    here = Path(__file__).parent
    for item in items:
        if here in Path(item.fspath).parents and not config.getoption("--emulated"):
            item.add_marker(pytest.mark.cuda)


@pytest.fixture(scope="session")
def column(request) -> Column:
    """The CUDA column: the GPU's, or the emulated one."""
    if request.config.getoption("--emulated"):
        return Column("emulated")
    if not torch.cuda.is_available():
        pytest.skip("this machine has no GPU that torch can use; --emulated needs none")
    return Column("cuda")


@pytest.fixture(scope="session")
def cpu() -> Column:
    """The CPU column."""
    return Column("cpu")

"""A small case with honest, slow, wrong and missing providers, and a machine for its rows."""

import time

import torch

from rlhf_kernels.bench.cases import OURS, Case, Provider, Settings
from rlhf_kernels.bench.machine import Machine

MACHINE = Machine(
    device="a processor",
    threads=2,
    isa="avx2",
    torch="2.13",
    version="0.1",
    commit="abc",
    date="2026-01-01",
    read_gb_s=10.0,
    update_gb_s=5.0,
    load=0.0,
)
SETTINGS = Settings(seconds=0.02)
SLOWER = 0.005


def make_case(*others: Provider, **changes) -> Case:
    """Build y = 2 x with the gradient 2, computed rightly by ours."""
    fields = {
        "op": "double",
        "mode": "forward",
        "shape": (4, 8),
        "dtype": torch.float32,
        "N": 4,
        "V": 8,
        "bytes_read": 128.0,
        "bytes_written": 128.0,
        "truth": right,
        "providers": [Provider(name=OURS, run=right), *others],
    }
    return Case(**(fields | changes))


def right():
    x = torch.arange(32.0).reshape(4, 8)
    return {"y": 2 * x, "grad": torch.full((4, 8), 2.0)}


def slow():
    time.sleep(SLOWER)
    return right()


def wrong():
    results = right()
    results["y"][3, 7] += 0.25
    results["grad"][0, 0] *= 1.01
    return results


def broken():
    raise RuntimeError("no compiler\nand a long trace")

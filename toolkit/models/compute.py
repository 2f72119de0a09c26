"""How matrix products and attention are computed: in which precision, by which library.

fp32 products on the CPU: torch hands them to MKL, which on AMD processors uses half of the vector
width. Under `set_float32_matmul_precision("medium")` it hands them to oneDNN, which has kernels for
the full width. That setting also permits oneDNN to round to bf16 where the processor has bf16
matrix units, so it is kept only where products come out with all their fp32 bits. Measured on one
AVX-512 AMD core, 768 x 512 x 512: 92 GFLOP/s by MKL, 216 by oneDNN; relative error 2.4e-7, 4.0e-7.

torch's fused CPU attention makes many tiny products, for which oneDNN is slow; short sequences that
attention.py does not take (padding masks, two dtypes) attend by batched products instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from toolkit.data.batches import Batch
from toolkit.models.attention import PLAIN_ATTENTION
from toolkit.spec.schema import Hardware

#: Tokens of a micro-batch on a CPU, where the spec leaves it open. More make no product faster, and
#: their activations leave the cache: 32 x 127 tokens of a 12M-parameter model took as long in one
#: part as in four, and 1.7 GB against 1.1.
_CPU_TOKENS = 2000

_EXACT = 1e-5  # relative; fp32 gives 4e-7, bf16 2e-3


def prepare_products(device: str) -> bool:
    """Choose the library of fp32 matrix products for this process; True if it is oneDNN."""
    torch.set_float32_matmul_precision("highest")
    if device != "cpu" or not _is_amd() or not torch.backends.mkldnn.is_available():
        return False
    torch.set_float32_matmul_precision("medium")
    if _products_are_exact():
        return True
    torch.set_float32_matmul_precision("highest")
    return False


def _is_amd() -> bool:
    info = Path("/proc/cpuinfo")
    return info.exists() and "AuthenticAMD" in info.read_text(encoding="utf-8")


def _products_are_exact() -> bool:
    """Whether fp32 products keep their bits, in the three layouts of a layer's two passes."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(96, 192, generator=generator) for _ in range(2))
    products = ((a @ b.T, a.double() @ b.double().T), (a.T @ b, a.double().T @ b.double()))
    return all((got - want).norm() <= _EXACT * want.norm() for got, want in products)


@contextmanager
def precision(hardware: Hardware, device: torch.device, *, pairs: int) -> Iterator[None]:
    """Compute in the spec's precision, with the attention that fits these lengths.

    Args:
        hardware: `precision`: "bf16" computes matrix products in bf16; weights stay fp32.
        device: where.
        pairs: positions that attend times positions attended to, in one sequence.
    """
    lowered = hardware.precision == "bf16"
    products = device.type == "cpu" and torch.get_float32_matmul_precision() == "medium"
    plain = (products or lowered) and device.type == "cpu" and pairs <= PLAIN_ATTENTION
    attention = sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()
    with token_precision(hardware, device), attention:
        yield


def attend_as_before() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Return the contexts of a checkpointed layer's two passes: both attend by the same kernel.

    torch restores autocast for the second pass, which `precision` no longer surrounds, but not the
    choice of kernels; another one keeps other tensors, which is an error.
    """
    plain = not torch.backends.cuda.flash_sdp_enabled()
    return nullcontext(), sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()


def token_precision(hardware: Hardware, device: torch.device) -> AbstractContextManager[Any]:
    """Compute in the spec's precision, one position a sequence at a time.

    Entered once for many tokens, it casts weights once.
    """
    if hardware.precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def micro_batches(
    batch: Batch, hardware: Hardware, device: torch.device
) -> list[tuple[slice, Batch]]:
    """Cut a batch into what one pass takes: as the spec says, or as the device likes it."""
    return batch.micro(hardware.micro_batch, _CPU_TOKENS if device.type == "cpu" else None)


def sequences_a_pass(
    count: int, width: int, hardware: Hardware, device: torch.device
) -> int | None:
    """Return how many sequences one pass takes where a batch is cut by a rule of its own.

    Args:
        count: sequences of the batch.
        width: tokens of the longest.
        hardware: `micro_batch`.
        device: where.

    Returns:
        As `micro_batches` would; None for all of them.
    """
    if hardware.micro_batch is not None or device.type != "cpu":
        return hardware.micro_batch
    parts = max(1, -(-count * width // _CPU_TOKENS))
    return max(1, -(-count // parts))

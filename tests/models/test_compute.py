"""fp32 products keep their bits whichever library computes them; attention fits the length."""

import pytest
import torch

from toolkit.models import compute
from toolkit.spec.schema import Hardware

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def restored():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def relative_error(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(64, 300, generator=generator), torch.randn(300, 80, generator=generator)
    want = a.double() @ b.double()
    return float(((a.to(dtype) @ b.to(dtype)).double() - want).norm() / want.norm())


def test_products_keep_fp32_bits_after_the_choice():
    compute.prepare_products("cpu")
    assert relative_error() < 1e-6


def test_rounded_products_are_noticed(monkeypatch):
    assert relative_error(torch.bfloat16) > compute._EXACT
    plain = torch.Tensor.__matmul__
    assert compute._products_are_exact()
    monkeypatch.setattr(
        torch.Tensor,
        "__matmul__",
        lambda a, b: (
            plain(a, b) if a.dtype == torch.float64 else plain(a.bfloat16(), b.bfloat16()).float()
        ),
    )
    assert not compute._products_are_exact()


def test_a_machine_that_rounds_stays_with_the_default(monkeypatch):
    monkeypatch.setattr(compute, "_is_amd", lambda: True)
    monkeypatch.setattr(compute, "_products_are_exact", lambda: False)
    assert not compute.prepare_products("cpu")
    assert torch.get_float32_matmul_precision() == "highest"


def attention_backends(pairs, products, precision="fp32"):
    torch.set_float32_matmul_precision(products)
    with compute.precision(Hardware(precision=precision), CPU, pairs=pairs):
        return torch._C._get_flash_sdp_enabled(), torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("pairs", "products", "precision", "fused"),
    [
        (128**2, "medium", "fp32", False),
        (129**2, "medium", "fp32", True),
        (12**2, "highest", "fp32", True),
        (12**2, "highest", "bf16", False),
    ],
)
def test_attention_fits_length_and_library(pairs, products, precision, fused):
    flash, cast = attention_backends(pairs, products, precision)
    assert flash == fused
    assert cast == (precision == "bf16")

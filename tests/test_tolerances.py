"""The tolerances themselves: none is vacuous, and a planted fault of one percent fails."""

import re
from pathlib import Path

import pytest
import torch

from tests import tolerances

OPS = Path(__file__).parent / "ops"


def test_no_floor_is_vacuous():
    floors = [value for name, value in vars(tolerances).items() if name.startswith("FLOOR")]
    numbers = [n for f in floors for n in (f.values() if isinstance(f, dict) else [f])]
    assert numbers
    assert all(0 < number < 5e-3 for number in numbers)


def test_no_test_writes_a_loose_tolerance():
    for path in OPS.glob("test_*.py"):
        for name, number in re.findall(r"\b(rtol|atol)=([0-9.e+-]+)", path.read_text()):
            assert float(number) < 0.5, f"{path.name}: {name}={number}"


@pytest.mark.parametrize("value", [0.01, 1.0, 10.0])
def test_one_percent_of_a_value_fails(value):
    truth = torch.full((5,), value, dtype=torch.float64)
    tolerances.assert_near_truth(truth.float(), truth)
    with pytest.raises(AssertionError, match="error"):
        tolerances.assert_near_truth(truth * 1.01, truth)


@pytest.mark.parametrize("dtype", list(tolerances.FLOOR_STORAGE))
def test_one_percent_of_a_gradient_fails_in_every_dtype(dtype):
    truth = torch.randn(4, 100, dtype=torch.float64)
    tolerances.assert_gradient_near_truth(truth.to(dtype), truth)
    with pytest.raises(AssertionError, match="error"):
        tolerances.assert_gradient_near_truth((truth * 1.01).to(dtype), truth)


def test_nan_where_the_truth_is_finite_fails():
    with pytest.raises(AssertionError, match="error"):
        tolerances.assert_near_truth(torch.tensor([torch.nan]), torch.tensor([1.0]))

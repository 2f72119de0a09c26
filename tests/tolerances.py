"""The truth rule: err(kernel) <= 2 * err(torch in fp32 on the same inputs) + floor.

Both errors are taken against the float64 reference of `rlhf_kernels.reference` on the same (already
rounded) inputs. A floor is there because torch's own error can be zero by luck; each has a reason.
"""

import torch
from torch import Tensor

#: One fp32 rounding (6e-8) of a result of order 1-16: log-probs, entropies, KL values, losses.
FLOOR_NATS = 2e-6
#: Relative to the largest entry of the truth: fp32 rounding of an element-wise result.
FLOOR_RELATIVE = 5e-7
#: One rounding to the 16-bit storage type of a gradient, relative to its largest entry.
FLOOR_STORAGE = {
    torch.float32: 5e-7,
    # p (log p - log q - KL) cancels on a peaked row: 1e-15 of a term, 1e-11 of what remains.
    torch.float64: 1e-10,
    torch.bfloat16: 2.0**-8,
    torch.float16: 2.0**-11,
}
#: float64 kernels against float64 torch: a few roundings of a sum over the vocabulary.
FLOOR_DOUBLE = 1e-12


def max_error(actual: Tensor, truth: Tensor) -> float:
    """Return the largest absolute error; infinite when NaN or inf do not match the truth's."""
    actual, truth = actual.detach().double(), truth.detach().double()
    assert actual.shape == truth.shape, f"shape {tuple(actual.shape)} != {tuple(truth.shape)}"
    same = (actual == truth) | (actual.isnan() & truth.isnan())
    error = torch.where(same, 0.0, (actual - truth).abs()).nan_to_num(nan=torch.inf)
    return error.max().item() if error.numel() else 0.0


def assert_near_truth(
    actual: Tensor, truth: Tensor, torch32: Tensor | None = None, *, floor: float = FLOOR_NATS
) -> None:
    """Assert the truth rule; `torch32` is what fp32 torch gets for the same inputs."""
    allowed = floor + (2 * max_error(torch32, truth) if torch32 is not None else 0.0)
    error = max_error(actual, truth)
    assert error <= allowed, f"error {error:.3g} > {allowed:.3g}"


def assert_gradient_near_truth(
    actual: Tensor, truth: Tensor, torch32: Tensor | None = None
) -> None:
    """Assert the truth rule on gradients row by row, relative to the row's largest entry.

    An absolute tolerance tests nothing when entries are of order 1/V.
    """
    rows = truth.detach().double().reshape(-1, truth.shape[-1] if truth.ndim > 1 else truth.numel())
    # Below the smallest normal number the spacing of the storage type is absolute.
    smallest = max(torch.finfo(actual.dtype).smallest_normal, 1e-300)
    scale = rows.abs().amax(dim=-1, keepdim=True).clamp(min=smallest)
    floor = FLOOR_STORAGE[actual.dtype]
    scaled = [
        None if t is None else t.detach().double().reshape(rows.shape) / scale
        for t in (actual, truth, torch32)
    ]
    assert_near_truth(*scaled, floor=floor)  # type: ignore[arg-type]

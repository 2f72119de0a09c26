"""Float64 reference of explained_variance."""

from torch import Tensor


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Compute 1 - mean squared error / biased variance of the returns."""
    value, target = values.double()[mask], returns.double()[mask]
    return 1.0 - (value - target).square().mean() / target.var(correction=0)

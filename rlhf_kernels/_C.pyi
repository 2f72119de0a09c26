"""Types of the native module: inputs, scalars, then the outputs to fill."""

from torch import Tensor

def token_kl(logprobs: Tensor, ref_logprobs: Tensor, estimator: str, out: Tensor, /) -> None: ...
def token_kl_backward(
    grad_out: Tensor, logprobs: Tensor, ref_logprobs: Tensor, estimator: str, grad: Tensor, /
) -> None: ...

"""gelu_tanh: the activation of GPT-2 and its kin, one kernel a pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu

from rlhf_kernels import _registry as registry

registry.declare("gelu_tanh", "native-cpu")


def _outputs(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _backward_outputs(grad_out: Tensor, x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


_forward = registry.define_op("gelu_tanh(Tensor x) -> Tensor", _outputs)
_backward = registry.define_op(
    "gelu_tanh_backward(Tensor grad_out, Tensor x) -> Tensor", _backward_outputs
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradient(ctx: Any, grad_out: Tensor) -> tuple[Tensor]:
    return (_backward(grad_out.contiguous(), *ctx.saved_tensors),)


registry.define_gradient("gelu_tanh", _setup, _gradient)
registry.forbid_gradient("gelu_tanh_backward")


def gelu_tanh(x: Tensor) -> Tensor:
    """Compute 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) of every element.

    Written with a sigmoid, so that nothing cancels where x < 0; the gradient is computed from x
    again, which is all that is kept for it. On a GPU this is torch's `gelu`, which memory bounds.

    Args:
        x: [...] float32, bfloat16, float16 or float64.

    Returns:
        [...] in the dtype of x, contiguous; computed in float32 (float64 for float64).

    Raises:
        ValueError: x is not floating.

    Source: Hendrycks and Gimpel, arXiv:1606.08415; transformers' `gelu_new` and
    `gelu_pytorch_tanh`.
    """
    if x.device.type != "cpu":
        return gelu(x, approximate="tanh")
    result: Tensor = _forward(x.contiguous())
    return result

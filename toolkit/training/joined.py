"""Parameters of a small model side by side in one tensor, and their gradients in another.

A step of AdamW over forty small tensors is mostly calls, and threads that meet at each. Over one
tensor it takes a third of the time (docs/PERFORMANCE.md); the parameters stay what they are, as
views of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_MOST = 1 << 20  # numbers; a larger model would keep its gradients' memory for little


def are_joined(parameters: Sequence[Tensor]) -> bool:
    """Say whether they are to be joined: those of a small model, fp32, on a CPU."""
    return (
        len(parameters) > 2
        and all(p.device.type == "cpu" and p.dtype == torch.float32 for p in parameters)
        and sum(p.numel() for p in parameters) <= _MOST
    )


class Joined:
    """One parameter over several, which become views of it, and its gradient over theirs.

    A parameter that nothing depended on counts as one whose gradient is zeros.

    Args:
        parameters: at least one; whoever held their memory before holds a copy.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Move them."""
        self.parameters = list(parameters)
        self.tensor = torch.nn.Parameter(torch.cat([p.detach().reshape(-1) for p in parameters]))
        self.tensor.grad = torch.zeros_like(self.tensor)
        sizes = [p.numel() for p in self.parameters]
        parts = zip(self.tensor.detach().split(sizes), self.tensor.grad.split(sizes), strict=True)
        self.grads: list[Tensor] = []
        for parameter, (part, grad) in zip(self.parameters, parts, strict=True):
            parameter.data = part.view(parameter.shape)
            self.grads.append(grad.view(parameter.shape))
            parameter.grad = self.grads[-1]

    def gather(self) -> None:
        """Bring in gradients that somebody has put elsewhere, or taken away."""
        for parameter, grad in zip(self.parameters, self.grads, strict=True):
            if parameter.grad is grad:
                continue
            if parameter.grad is None:
                grad.zero_()
            else:
                grad.copy_(parameter.grad)
            parameter.grad = grad

    def clear(self) -> None:
        """Set the gradients to zero; tell autograd that the parameters have changed."""
        assert self.tensor.grad is not None
        self.tensor.grad.zero_()
        torch.autograd.graph.increment_version(self.parameters)

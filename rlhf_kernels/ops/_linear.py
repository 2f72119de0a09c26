"""What the ops over a linear head share: chunks of rows, workspaces, autograd.

N rows, D hidden, V vocabulary. Rows go through the head a chunk at a time, in one workspace, so
that [N, V] never exists. Rows that do not count are left out before the products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf_kernels import _registry as registry
from rlhf_kernels.ops import _matmul

#: Bytes of logits held at a time on the CPU: 128 rows of 50257 in float32.
CPU_CHUNK_BYTES = 26 * 2**20
#: Rows at a time on a GPU: adding up the weight's gradient costs 8 V D bytes per chunk.
CUDA_CHUNK_ROWS = 4096
#: Entries that a workspace's row is a multiple of; odd ones slow every library down.
PADDING = 128


@dataclass(frozen=True, kw_only=True)
class Head:
    """A linear head in the dtype of its products; softcap 0 means none."""

    weight: Tensor
    bias: Tensor | None
    softcap: float

    def write_logits(self, hidden: Tensor, out: Tensor, bounded: Tensor | None = None) -> None:
        """Write the logits of hidden [n, D] into `out`; `bounded` gets tanh(. / softcap)."""
        _matmul.multiply_logits(hidden, self.weight, self.bias, out)
        if self.softcap:
            out.div_(self.softcap).tanh_()
            if bounded is not None:
                bounded.copy_(out)
            out.mul_(self.softcap)

    def undo_softcap(self, dlogits: Tensor, bounded: Tensor | None) -> None:
        """Turn a gradient of the logits into one of the product: times 1 - tanh^2."""
        if bounded is not None:
            dlogits.addcmul_(dlogits, bounded.square_(), value=-1.0)


def make_head(
    weight: Tensor, bias: Tensor | None, softcap: float, compute: torch.dtype | None
) -> Head:
    """Return the head, outside the graph and in the dtype of its products."""
    dtype = weight.dtype if compute is None else compute
    return Head(
        weight=weight.detach().to(dtype),
        bias=None if bias is None else bias.detach().to(dtype),
        softcap=softcap,
    )


@dataclass(frozen=True, kw_only=True)
class Chunks:
    """Which rows take part, and how many at a time; `index` is None when all do."""

    count: int
    rows: int
    index: Tensor | None

    def __iter__(self) -> Iterator[slice]:
        """Yield the slices of the packed rows; one empty slice when there are none."""
        for start in range(0, max(self.count, 1), self.rows):
            yield slice(start, min(start + self.rows, self.count))

    @property
    def single(self) -> bool:
        """Say whether there is one chunk only."""
        return self.count <= self.rows

    @property
    def whole(self) -> bool:
        """Say whether the first chunk holds every row of the call."""
        return self.single and self.index is None

    def cut(self, values: Tensor, part: slice) -> Tensor:
        """Return a chunk of packed rows."""
        return values if self.single else values[part]

    def pack(self, values: Tensor | None) -> Tensor | None:
        """Return the rows of [N, ...] that take part."""
        return values if values is None or self.index is None else values[self.index]

    def hidden(self, hidden: Tensor, part: slice, head: Head) -> Tensor:
        """Return the hidden states of one chunk in the dtype of the products."""
        if self.index is None:
            return self.cut(hidden, part).to(head.weight.dtype)
        return hidden.index_select(0, self.index[part]).to(head.weight.dtype)

    def write(self, target: Tensor, part: slice, values: Tensor) -> None:
        """Write the results of one chunk to their rows of `target` [N, ...]."""
        if self.index is None:
            target[part] = values
        else:
            target.index_copy_(0, self.index[part], values.to(target.dtype))

    def new_workspaces(self, head: Head, count: int) -> list[Tensor]:
        """Allocate `count` chunks of logits [rows, V] whose rows lie a multiple of PADDING apart.

        They are touched again and again; allocated per chunk, the system would clear each page.
        What lies between the rows must be a number on the CPU: oneDNN's 16-bit products on AMX
        read it, times 0.
        """
        vocab, like = len(head.weight), head.weight
        shape = (min(self.rows, self.count), pad(vocab))
        whole = [torch.empty(shape, dtype=like.dtype, device=like.device) for _ in range(count)]
        if like.device.type == "cpu":
            for space in whole:
                space[:, vocab:].zero_()
        return [space[:, :vocab] for space in whole]


def pad(vocab: int) -> int:
    """Return the length of a workspace's row."""
    return -(-vocab // PADDING) * PADDING


def plan_chunks(
    op: str,
    counted: Tensor | None,
    hidden: Tensor,
    head: Head,
    chunk_bytes: int | None,
    held: int,
    spared: int = 0,
) -> Chunks:
    """Choose the rows that take part, and how many of them fit the budget.

    Args:
        op: for the error.
        counted: bool [N], the rows to keep, or None for all of them; on CUDA reading it waits.
        hidden: [N, D].
        head: whose logits are held.
        chunk_bytes: the budget; None for the device's own.
        held: how many [rows, V] tensors are held at a time.
        spared: bytes a vocabulary entry that one chunk of all rows does without: on CUDA it is
            taken where it holds no more than that.

    Raises:
        ValueError: one row does not fit; the message says what does.
    """
    index = None
    if counted is not None and not bool(counted.all()):
        index = counted.nonzero()[:, 0]
    count = len(hidden) if index is None else len(index)
    row_bytes = held * pad(len(head.weight)) * head.weight.dtype.itemsize
    if chunk_bytes is None:
        budget = CUDA_CHUNK_ROWS * row_bytes if hidden.is_cuda else CPU_CHUNK_BYTES
        rows = max(1, budget // row_bytes)
        if hidden.is_cuda and held * count * head.weight.dtype.itemsize <= spared:
            rows = max(rows, -(-count // 16) * 16)
    else:
        rows = chunk_bytes // row_bytes
    if rows < 1:
        raise ValueError(
            f"{op}: argument 'chunk_bytes' is {chunk_bytes}, but one row of logits takes"
            f" {row_bytes} bytes; pass at least {row_bytes}, or None for the default"
        )
    return Chunks(count=count, rows=rows // 16 * 16 or rows, index=index)


def wanted(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> list[bool]:
    """Say which of the three need a gradient."""
    inputs = (hidden, weight, bias)
    enabled = torch.is_grad_enabled()
    return [enabled and x is not None and x.requires_grad for x in inputs]


def isolated(run: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap an operator's body: no autograd, and no autocast beyond what its arguments say."""

    def body(hidden: Tensor, *rest: Any) -> Any:
        device = hidden.device.type
        active = torch.is_autocast_enabled(device)
        plain = torch.autocast(device, enabled=False) if active else nullcontext()
        with torch.no_grad(), plain:
            return run(hidden, *rest)

    return body


def compute_dtype(hidden: Tensor) -> torch.dtype | None:
    """Return the dtype that autocast asks for, or None for that of the inputs."""
    device = hidden.device.type
    if hidden.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def split_scale(
    op: str, temperature: float | Tensor, logit_scale: float, softcap: float | None
) -> tuple[Tensor | None, float, float]:
    """Fold the scale: z = s c tanh(x / c) / T, c = softcap / s, is a head with another T and cap.

    Returns:
        (temperatures [N] or None, temperature, softcap), softcap 0 for none.

    Raises:
        ValueError: a scale or softcap is not positive.
    """
    for name, value in (("logit_scale", logit_scale), ("softcap", softcap)):
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(
                f"{op}: argument '{name}' must be positive and finite, got {value};"
                f" leave it out where the head has none"
            )
    cap = 0.0 if softcap is None else softcap / logit_scale
    if isinstance(temperature, Tensor):
        return (temperature.detach() / logit_scale).contiguous(), 1.0, cap
    return None, float(temperature) / logit_scale, cap


def _scale_unless_one(grad: Tensor, upstream: Tensor) -> None:
    if upstream.is_cuda or float(upstream) != 1.0:
        grad.mul_(upstream)


def _refuse_unless_one(grad: Tensor, upstream: Tensor) -> None:
    if upstream.is_cuda:
        grad.mul_(torch.where(upstream == 1.0, 1.0, torch.nan))
    elif float(upstream) != 1.0:
        raise RuntimeError(
            f"backward: the upstream gradient is {float(upstream):g}, but 'weight_grad' already"
            " holds the gradient of the loss itself; call backward on the loss alone and put"
            " factors into its denominators and coefficients"
        )


def _no_outputs(grad: Tensor, upstream: Tensor) -> None:
    return None


#: Multiply a gradient by the loss's upstream gradient, a 0-d tensor, in place; on the CPU, where
#: reading the number does not wait, nothing is done for 1.
scale_inplace = registry.define_composite(
    "linear_scale_(Tensor(a!) grad, Tensor upstream) -> ()", _scale_unless_one, _no_outputs
)

#: The same where the weight's gradient is already with the caller: anything but 1 is an error.
refuse_scale = registry.define_composite(
    "linear_refuse_scale_(Tensor(a!) grad, Tensor upstream) -> ()", _refuse_unless_one, _no_outputs
)

"""Record work of fixed shape as a CUDA graph, in the spec's precision."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from toolkit.spec.schema import Hardware

_WARM_UPS = 2  # runs in which libraries take what they need


class Lowered:
    """bf16 copies of the linear layers' weights, for steps in bf16.

    Autocast casts a weight at its first use and keeps it as long as it lasts. A recording cannot
    use what was kept, and would cast every weight at every step.
    """

    def __init__(self, model: PreTrainedModel, hardware: Hardware) -> None:
        """Copy nothing in fp32."""
        self.copies: list[tuple[torch.nn.Module, str, Tensor]] = []
        if hardware.precision != "bf16":
            return
        for module in model.modules():
            if isinstance(module, (torch.nn.Linear, Conv1D)):
                self.copies += [
                    (module, name, torch.empty_like(held, dtype=torch.bfloat16))
                    for name, held in module.named_parameters(recurse=False)
                    if held.dtype == torch.float32
                ]

    def refresh(self) -> None:
        """Copy the weights as they are now."""
        for module, name, copy in self.copies:
            copy.copy_(getattr(module, name))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the layers use the copies."""
        weights = [module._parameters[name] for module, name, _ in self.copies]
        for module, name, copy in self.copies:
            module._parameters[name] = copy  # type: ignore[assignment]
        try:
            yield
        finally:
            for (module, name, _), weight in zip(self.copies, weights, strict=True):
                module._parameters[name] = weight


def computing(hardware: Hardware, device: torch.device) -> AbstractContextManager[Any]:
    """Compute in the spec's precision, with no cast kept from one run to another."""
    if hardware.precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)
    return nullcontext()


def new_pool() -> Any:
    """Return memory that all recordings share, as they never run at once; None without a GPU."""
    return torch.cuda.graph_pool_handle() if torch.cuda.is_available() else None


def capture(step: Callable[[], None], aside: Callable[[], None], pool: Any) -> Callable[[], object]:
    """Record a step on the GPU; return what replays it.

    Args:
        step: what is recorded; it runs a few times first.
        aside: called before each of these runs.
        pool: where its intermediate results lie.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            aside()
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph, failed = torch.cuda.CUDAGraph(), list[Exception]()
    try:
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            try:
                step()
            except Exception as error:
                failed.append(error)
                raise
    except Exception as error:  # the end of a broken recording has an error of its own
        raise (failed or [error])[0] from None
    return graph.replay


def warn(model: PreTrainedModel, error: Exception, so: str) -> None:
    """Say why a step cannot be recorded, and what follows."""
    lines = str(error).strip().splitlines() or [""]
    warnings.warn(
        f"{type(model).__name__}: its sampling steps cannot be recorded as CUDA graphs "
        f"({type(error).__name__}: {lines[0]}), {so}; hardware.cuda_graphs: off asks for none",
        RuntimeWarning,
        stacklevel=3,
    )

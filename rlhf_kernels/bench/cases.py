"""What a benchmark consists of: settings, providers, and the case they meet on."""

from __future__ import annotations

import dataclasses
import fnmatch
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

OURS = "rlhf_kernels"

#: How often a GPU runs each provider of a case, unless the case says otherwise.
ROUNDS = 60

#: Results by name; names that start with "grad" are gradients.
Results = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the command line asked for.

    Args:
        dtypes: instead of each op's own; empty means those.
        shape: rows and columns instead of each op's own.
        providers: patterns of names; empty means all. Ours always runs, as the ratios need it.
        seconds: time for the rounds of one case; the minimum of rounds may take longer.
        clock: "wall", or "cpu" for the CPU time of the one thread there is, which leaves out the
            time slices that went to other programs. On a GPU its own events are the clock.
        device: "cpu" or "cuda", where the inputs lie.
        deadline: in seconds of `time.perf_counter`; nothing is compiled after it.
    """

    dtypes: tuple[torch.dtype, ...] = ()
    shape: tuple[int, int] | None = None
    providers: tuple[str, ...] = ()
    quick: bool = False
    seconds: float = 4.0
    clock: str = "wall"
    device: str = "cpu"
    deadline: float | None = None

    def pick_shape(self, default: tuple[int, int], quick: tuple[int, int]) -> tuple[int, int]:
        """Return the shape asked for, or the op's own; a GPU is fast enough for the full one."""
        return self.shape or (quick if self.quick and self.device == "cpu" else default)

    def pick_logits_shapes(self) -> tuple[tuple[int, int], ...]:
        """Return the shapes [N, V] of ops on logits: a GPU takes two, with --quick one."""
        if self.shape:
            return (self.shape,)
        if self.device == "cpu":
            return ((16, 50257),) if self.quick else ((512, 50257),)
        return ((8192, 50257),) if self.quick else ((8192, 50257), (8192, 151936))

    def pick_logits_dtypes(self) -> tuple[torch.dtype, ...]:
        """Return the dtypes of ops on logits: on a GPU logits come out of bfloat16 products."""
        if self.device == "cpu":
            return self.pick_dtypes(torch.float32, torch.bfloat16)
        return self.pick_dtypes(torch.bfloat16)

    def pick_dtypes(self, *default: torch.dtype) -> tuple[torch.dtype, ...]:
        """Return the dtypes asked for, or the op's own."""
        return self.dtypes or default

    def is_late(self) -> bool:
        """Say whether the deadline has passed."""
        return self.deadline is not None and time.perf_counter() > self.deadline

    def wants(self, name: str) -> bool:
        """Say whether a provider should run."""
        patterns = self.providers
        return name == OURS or not patterns or any(fnmatch.fnmatch(name, p) for p in patterns)


@dataclass(frozen=True, kw_only=True)
class Provider:
    """One way to compute an op.

    Args:
        run: computes the results; None when it cannot run here, and `note` says why.
        prepare: restores what `run` overwrites; called before each run, outside the timed region.
        compiled: its first call compiles.
    """

    name: str
    run: Callable[[], Results] | None
    prepare: Callable[[], Any] | None = None
    compiled: bool = False
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One op on one kind of input, with everybody who computes it.

    Args:
        truth: the float64 results, from rlhf_kernels.reference.
        bytes_read: bytes that must be read: each input once.
        bytes_written: bytes that must be written: each output once.
        again: builds the same case with the same numbers in memory of its own, for a GPU, where
            the inputs are rotated so that no run finds them in the cache.
        rounds: how often a GPU runs each provider; calls of tens of milliseconds need fewer.
    """

    op: str
    mode: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    N: int | None = None
    V: int | None = None
    D: int | None = None
    mask_share: float = 1.0
    bytes_read: float
    bytes_written: float
    truth: Callable[[], Results]
    providers: Sequence[Provider]
    again: Callable[[], Case] | None = None
    rounds: int = ROUNDS


def make_again(make: Callable[..., Case], *args: Any) -> Case:
    """Return `make(*args)`, which can be built again."""
    return dataclasses.replace(make(*args), again=lambda: make(*args))

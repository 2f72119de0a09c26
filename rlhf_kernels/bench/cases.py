"""What a benchmark consists of: settings, providers, and the case they meet on."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

OURS = "rlhf_kernels"

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
            time slices that went to other programs.
    """

    dtypes: tuple[torch.dtype, ...] = ()
    shape: tuple[int, int] | None = None
    providers: tuple[str, ...] = ()
    quick: bool = False
    seconds: float = 4.0
    clock: str = "wall"

    def pick_shape(self, default: tuple[int, int], quick: tuple[int, int]) -> tuple[int, int]:
        """Return the shape asked for, or the op's own for this kind of run."""
        return self.shape or (quick if self.quick else default)

    def pick_dtypes(self, *default: torch.dtype) -> tuple[torch.dtype, ...]:
        """Return the dtypes asked for, or the op's own."""
        return self.dtypes or default

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
    """

    op: str
    mode: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    N: int | None = None
    V: int | None = None
    mask_share: float = 1.0
    bytes_read: float
    bytes_written: float
    truth: Callable[[], Results]
    providers: Sequence[Provider]

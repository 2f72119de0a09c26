"""Every CUDA kernel on small inputs that end where their allocations end, for compute-sanitizer.

    compute-sanitizer --tool memcheck --kernel-name kns=rlhf python tests/cuda/guarded.py

torch's caching is off, so each tensor is an allocation of its own and memcheck knows its true end;
inputs start 0 to 3 elements into theirs, so that rows have every alignment. `--quick` runs
one size of each kernel (racecheck is slow), `--emulated` only shows that the script itself works.
`--fault` runs one kernel on a tensor that claims 64 elements beyond its end: the tool must object,
else it does not watch these kernels.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from tests.cuda.device import Column

TOKEN_SIZES = (1, 33, 1025, 4100)
ROW_SIZES = ((3, 1), (2, 7), (5, 33), (3, 2049))
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def to_edge(tensor: torch.Tensor, phase: int) -> torch.Tensor:
    """Return the values in an allocation of their own that they fill from element `phase`."""
    memory = tensor.new_zeros(phase + tensor.numel())
    memory[phase:] = tensor.flatten()
    return memory[phase:].view(tensor.shape)


def place_at_edges(values: Any, phase: int) -> Any:
    """Apply `to_edge` to every tensor of nested inputs, each with another phase."""
    if isinstance(values, torch.Tensor):
        return to_edge(values, phase % 4) if values.ndim else values
    if isinstance(values, dict):
        return {name: place_at_edges(v, phase + i) for i, (name, v) in enumerate(values.items())}
    if isinstance(values, tuple):
        return tuple(place_at_edges(v, phase + i) for i, v in enumerate(values))
    return values


def run_case(case: Any, size: Any, dtype: torch.dtype, phase: int, column: Column) -> None:
    """Run one case forward, and backward if it has a gradient."""
    inputs = place_at_edges(case.inputs(size, dtype), phase)
    if not case.gradient:
        column.run(case.op, *inputs, **case.options)
        return
    results = column.run(case.op, *inputs, **case.options)
    first = results[0] if isinstance(results, tuple) else results
    upstream = to_edge(torch.ones(first.shape), 1) if first.ndim else 1.0
    column.differentiate(case.op, *inputs, upstream=upstream, **case.options)


def draw(size: tuple[int, int], dtype: torch.dtype, phase: int, column: Column) -> None:
    """Run `sample` with and without truncation."""
    import rlhf_kernels as rk
    from tests.ops.logits import make_logits

    logits, rows = make_logits(*size, dtype), torch.arange(size[0])
    given = place_at_edges((logits, rows, rows * 2), phase)
    for options in ({}, {"top_k": 3}, {"top_p": 0.8}):
        column.run(lambda x, *where, **o: rk.sample(x, 1, *where, **o), *given, **options)


def run_all(column: Column, quick: bool) -> int:
    """Run every case and return how many calls that were."""
    from tests.cuda.cases import ROWS, TOKENS

    calls = 0
    dtypes = (torch.bfloat16,) if quick else DTYPES
    for cases, sizes in ((TOKENS, TOKEN_SIZES), (ROWS, ROW_SIZES)):
        for case in cases:
            for size in sizes[2:3] if quick else sizes:
                for dtype in dtypes:
                    run_case(case, size, dtype, calls, column)
                    calls += 1
    for size in ROW_SIZES[2:3] if quick else ROW_SIZES:
        for dtype in dtypes:
            draw(size, dtype, calls, column)
            calls += 1
    return calls


class Claim:
    """A CUDA array that claims more elements than its memory has."""

    def __init__(self, memory: torch.Tensor, extra: int) -> None:
        self.memory = memory
        self.__cuda_array_interface__ = {
            "shape": (memory.numel() + extra,),
            "typestr": "<f4",
            "data": (memory.data_ptr(), False),
            "version": 2,
        }


def stop_caching() -> None:
    """Let every tensor be an allocation of its own; must run before the first one."""
    os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    kept = torch.zeros(1, device="cuda")
    if torch.cuda.memory_reserved():
        sys.exit(
            f"torch {torch.__version__} caches memory on {kept.device} in spite of"
            " PYTORCH_NO_CUDA_MEMORY_CACHING=1, so memcheck would not see where tensors end"
        )


def read_past_the_end() -> None:
    """Let one kernel read 64 elements that belong to no allocation."""
    import rlhf_kernels as rk

    right = torch.zeros(1088, device="cuda")
    wrong = torch.as_tensor(Claim(torch.zeros(1024, device="cuda"), 64), device="cuda")
    rk.token_kl(wrong, right)
    torch.cuda.synchronize()


def main() -> int:
    """Run the cases on the GPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--emulated", action="store_true")
    parser.add_argument("--fault", action="store_true")
    arguments = parser.parse_args()
    if arguments.emulated:
        from tests.cuda.conftest import load_emulated

        load_emulated()
    else:
        stop_caching()
    if arguments.fault:
        read_past_the_end()
        return 0
    calls = run_all(Column("emulated" if arguments.emulated else "cuda"), arguments.quick)
    if not arguments.emulated:
        torch.cuda.synchronize()
    print(f"{calls} calls ended")
    return 0


if __name__ == "__main__":
    sys.exit(main())

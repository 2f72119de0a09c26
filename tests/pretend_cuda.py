"""Run product code with device "cuda" on a CPU: the same numbers, and an error for every mix.

A pretended tensor is a tensor on the CPU whose class says `device == cuda:0`. `PretendCuda` sees
every call of torch's Python interface: a call with tensors of both kinds fails with the op's name
(a CPU tensor without dimensions may join, as in torch); a heavy op or one of ours that runs wholly
on the CPU fails too, so that a model left behind is seen. Results of pretended arguments are
pretended. The arithmetic is the CPU's, hence the same bits.

Not seen: mixes made by torch's own C++, and those inside a backward pass, which follows the
forward's devices by construction.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves, tree_map

import rlhf_kernels as rk

CUDA = torch.device("cuda", 0)


class Pretended(torch.Tensor):
    """A tensor that says it is on a GPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)


class PretendedParameter(Pretended, torch.nn.Parameter):
    """A parameter that says so."""

    __torch_function__ = torch._C._disabled_torch_function_impl


class MixedDevices(AssertionError):
    """An op got tensors of both devices, or ran on the wrong one."""


COPIES = {"copy_", "to", "cpu", "cuda", "pin_memory", "type_as"}
LONGED = {"cat", "stack", "linear", "matmul", "addmm", "bmm"}  # no op for a CPU scalar
HEAVY = {"linear", "addmm", "matmul", "bmm", "embedding", "layer_norm", "softmax",
         "scaled_dot_product_attention", "log_softmax"}  # fmt: skip
READS = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "nonzero", "allclose",
         "equal", "masked_select", "unique"}  # fmt: skip
REFUSED = {"numpy", "__array__"}
NEUTRAL = {"_has_compatible_shallow_copy_type"}  # asks, computes nothing


def pretend(value: Any) -> Any:
    """Mark every tensor in a result."""

    def mark(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor) and not isinstance(leaf, Pretended):
            parameter = isinstance(leaf, torch.nn.Parameter)
            leaf.__class__ = PretendedParameter if parameter else Pretended
        return leaf

    return tree_map(mark, value)


@contextlib.contextmanager
def unmasked(tensors: list[torch.Tensor]) -> Iterator[None]:
    """Let pretended tensors be what they are, for the length of one call."""
    classes = [type(tensor) for tensor in tensors]
    for tensor, kind in zip(tensors, classes, strict=True):
        plain = torch.nn.Parameter if kind is PretendedParameter else torch.Tensor
        tensor.__class__ = plain
    try:
        yield
    finally:
        for tensor, kind in zip(tensors, classes, strict=True):
            tensor.__class__ = kind


def is_cuda(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


class PretendCuda(TorchFunctionMode):
    """Within it, device "cuda" works without a GPU.

    Attributes:
        reads: how often the CPU would have waited for the GPU, by op; what transformers reads
            (once in a forward without cache, for packed sequences) is left out.
        calls: calls with pretended tensors, by op.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = name_of(func)
        tensors = {id(t): t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        there = [t for t in tensors.values() if isinstance(t, Pretended)]
        here = [t for t in tensors.values() if not isinstance(t, Pretended)]
        if name == "device.__get__" and there:
            return CUDA
        if name == "is_cuda.__get__" and there:
            return True
        if name == "backward" and there:
            return self.backward(args[0])
        if name in COPIES:
            return self.copy(func, name, args, kwargs, there)
        if name == "data.__set__" and isinstance(args[1], Pretended):
            return self.set_data(func, args)
        if name not in NEUTRAL and torch._C._current_graph_task_id() == -1:
            check(func, name, there, here)
        self.count(name, args, there)
        made_there = is_cuda(kwargs.get("device"))
        if made_there:
            kwargs["device"] = torch.device("cpu")
            generator = kwargs.get("generator")
            if generator is not None:
                raise MixedDevices(f"{name}: a CPU generator draws for a tensor on the GPU")
        with unmasked(there):
            result = func(*args, **kwargs)
        goes_there = made_there or (there and not kwargs.get("device"))
        return pretend(result) if goes_there else result

    def count(self, name: str, args: tuple[Any, ...], there: list[torch.Tensor]) -> None:
        if not there:
            return
        self.calls[name] += 1
        indexed = name in ("__getitem__", "__setitem__")
        masks = tree_leaves(args[1]) if indexed else []
        waits = name in READS or any(getattr(m, "dtype", None) == torch.bool for m in masks)
        if waits and not called_by_transformers():
            self.reads[name] += 1

    def backward(self, loss: torch.Tensor) -> None:
        """Run the engine with the mode on, for gradients written in Python."""
        with self:
            _engine_run_backward(
                (loss,), (torch.ones_like(loss),), False, False, (),
                allow_unreachable=True, accumulate_grad=True,
            )  # fmt: skip

    def copy(self, func, name, args, kwargs, there):
        """Copy between the devices, or within one."""
        source = args[0]
        if name == "copy_":
            with unmasked(there):
                func(*args, **kwargs)
            return source
        if name == "pin_memory":
            if isinstance(source, Pretended):
                raise MixedDevices("pin_memory: only a CPU tensor can be pinned")
            return source.clone()
        if name == "type_as":
            func = torch.Tensor.to
        device, arguments, options = split_device(name, args[1:], kwargs)
        target = source.device if device is None else device
        with unmasked(there):
            result = source
            if arguments or options:
                result = func(source, *arguments, **options)
            crossed = (target.type == "cuda") != any(t is source for t in there)
            if crossed and result is source:
                result = source.clone()
        if crossed and target.type == "cpu":
            self.reads[name] += 1
        if target.type == "cuda":
            return pretend(result)
        if isinstance(result, Pretended) and crossed:
            result.__class__ = torch.Tensor
        return result

    def set_data(self, func, args):
        """`parameter.data = pretended`, as Module.to does: the parameter is there now."""
        owner, value = args
        held = [t for t in (owner, value) if isinstance(t, Pretended)]
        with unmasked(held):
            func(owner, value)
        pretend(owner)


def called_by_transformers() -> bool:
    """Say whose line made the call that is being looked at."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if not name.startswith("torch") and name != __name__:
            return name.startswith("transformers")
        frame = frame.f_back
    return False


def split_device(name, args, kwargs):
    """Take the device out of the arguments of Tensor.to, .cpu, .cuda."""
    if name in ("cpu", "cuda"):
        return torch.device(name), (), {}
    kwargs = dict(kwargs)
    device = kwargs.pop("device", None)
    rest = []
    for value in args:
        if isinstance(value, (str, torch.device)):
            device = value
        elif isinstance(value, torch.Tensor):
            device = value.device
            rest.append(value.dtype)
        elif value is not None:
            rest.append(value)
    kwargs.pop("non_blocking", None)
    if rest and isinstance(rest[0], bool):
        rest = []
    return None if device is None else torch.device(device), tuple(rest), kwargs


def name_of(func: Any) -> str:
    """The op's name as a user knows it; getters as `grad.__get__`."""
    if isinstance(func, torch._ops.OpOverload):
        return f"{func.namespace}::{func._opname}"
    name = getattr(func, "__name__", str(func))
    if name in ("__get__", "__set__"):
        full = resolve_name(func) or ""
        return ".".join(full.split(".")[-2:])
    return name


def check(func: Any, name: str, there: list[torch.Tensor], here: list[torch.Tensor]) -> None:
    """Fail for an op whose arguments are not on one device, or that should run on the GPU."""
    ours = name.startswith("rlhf_kernels::")
    wide = [t for t in here if t.dim() > 0 or ours or name in LONGED]
    if there and wide:
        shapes = ", ".join(str(tuple(t.shape)) for t in wide)
        raise MixedDevices(f"{name}: got tensors on cuda and CPU tensors of shapes {shapes}")
    if here and not there and (ours or name in HEAVY):
        raise MixedDevices(f"{name}: ran on the CPU, its arguments were left there")
    if there and name in REFUSED:
        raise MixedDevices(f"{name}: numpy cannot read a tensor on the GPU; move it first")


@contextlib.contextmanager
def pretend_cuda(monkeypatch) -> Iterator[PretendCuda]:
    """Enter the mode, with what torch and the kernels say of the machine replaced."""
    real_autocast = torch.autocast
    answers = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda *a: (9, 0),
        "reset_peak_memory_stats": lambda *a: None,
        "max_memory_allocated": lambda *a: 1,
    }
    with monkeypatch.context() as patch, PretendCuda() as mode:
        for name, answer in answers.items():
            patch.setattr(torch.cuda, name, answer)
        patch.setattr(rk, "has_cuda", lambda: True, raising=False)
        patch.setattr(torch, "autocast", lambda kind, **k: real_autocast("cpu", **k))
        patch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        yield mode

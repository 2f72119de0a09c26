"""Tensors that say they are on a GPU: what would mix devices there fails here, without one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda")
CPU = torch.device("cpu")


class OnDevice(Tensor):
    """A CPU tensor whose `device` is cuda; results of calls with one are again such tensors."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            if func == Tensor.device.__get__:
                return CUDA
            return tree_map(to_device, func(*args, **(kwargs or {})))


def to_device(value):
    if isinstance(value, OnDevice) or not isinstance(value, Tensor):
        return value
    return value.as_subclass(OnDevice)


def is_cuda(value):
    return (isinstance(value, str) and value == "cuda") or (
        isinstance(value, torch.device) and value.type == "cuda"
    )


class PretendCuda(TorchFunctionMode):
    """Make `device="cuda"` and `.to("cuda")` give such tensors, and refuse mixed devices."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is Tensor.cpu:
            with torch._C.DisableTorchFunctionSubclass():
                return args[0].clone().as_subclass(Tensor)
        wants = any(is_cuda(value) for value in (*args, kwargs.get("device")))
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        moves = func in (Tensor.to, Tensor.copy_)
        # Scalars and indices may lie on the CPU, on a GPU too.
        counted = [x for x in tensors if x.dim() or isinstance(x, OnDevice)]
        if not moves and func is not Tensor.__getitem__:
            there = {isinstance(x, OnDevice) for x in counted}
            assert len(there) < 2, f"{resolve_name(func) or func} mixes a GPU and the CPU"
        if kwargs.get("device") is not None:
            kwargs["device"] = CPU
        result = func(*[CPU if is_cuda(value) else value for value in args], **kwargs)
        return tree_map(to_device, result) if wants else result

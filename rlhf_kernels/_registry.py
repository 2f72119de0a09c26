"""Give native functions a PyTorch identity: schema, CPU kernel, fake kernel, autograd.

Only this module touches `_C`. An op is a schema, and a function `outputs(*args)` that allocates
its results; the same function is the fake kernel, so that shapes and dtypes seen by `torch.compile`
and the real ones agree by construction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor

from rlhf_kernels import _C  # torch is imported first: its OpenMP runtime is shared, not doubled

NAMESPACE = "rlhf_kernels"
LIBRARY = torch.library.Library(NAMESPACE, "DEF")

Kind = Literal["native", "native-cpu", "composite"]
Outputs = Callable[..., Any]

#: Every public op and its kind; `native-cpu` becomes `native` when its CUDA kernel exists.
OPS: dict[str, Kind] = {}
_BODIES: dict[str, Callable[..., Any]] = {}


def declare(name: str, kind: Kind) -> None:
    """Record a public op and its kind."""
    OPS[name] = kind


def define_op(
    schema: str, outputs: Outputs, workspace_items: Callable[..., int] | None = None
) -> Callable[..., Any]:
    """Register the native function named in `schema` as a PyTorch operator.

    Args:
        schema: `name(Tensor x, float y) -> Tensor`, in the argument order of `_C.name` without
            the outputs. No default values: the dispatcher would drop them from the call.
        outputs: allocates the results for these arguments: a tensor, a tuple of tensors, or None
            for an op that only writes into its arguments.
        workspace_items: for an op that sums over many blocks, how many tokens, rows or groups
            these arguments have; its kernel then takes a workspace as the last argument.

    Returns:
        The operator, callable as `op(*args)`.
    """
    name = schema.partition("(")[0]
    kernel = getattr(_C, name)

    def run(*args: Any) -> Any:
        results = outputs(*args)
        written = results if isinstance(results, tuple) else () if results is None else (results,)
        if workspace_items:
            kernel(*args, *written, _new_workspace(name, args[0], workspace_items(*args)))
        else:
            kernel(*args, *written)
        return results

    _BODIES[name] = run
    return define_composite(schema, run, outputs)


def body(name: str) -> Callable[..., Any]:
    """Return what a native op does to plain tensors, for a composite op that calls it often."""
    return _BODIES[name]


def define_composite(schema: str, run: Callable[..., Any], fake: Outputs) -> Callable[..., Any]:
    """Register an operator written in Python over others; torch.compile sees it as one.

    Args:
        schema: as for `define_op`.
        run: computes the results, on the CPU and on CUDA; autograd does not look inside.
        fake: allocates results of the same shapes, dtypes and strides.
    """
    name = schema.partition("(")[0]
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    op = _find_op(name)
    if op._schema.is_mutable:
        run, fake = _bump_versions(op, run), _bump_versions(op, fake)
    for device in ("CPU", "CUDA"):
        LIBRARY.impl(name, run, device)
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=LIBRARY)
    return cast("Callable[..., Any]", op)


def _find_op(name: str) -> Any:
    """Return the operator of that name, without the packet of overloads around it."""
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def _new_workspace(name: str, first: Tensor, items: int) -> Tensor | None:
    """Allocate what the kernel of this device keeps partial sums in; None on the CPU."""
    size = _C.workspace_size(name, first, items)
    return torch.empty(size, dtype=torch.float64, device=first.device) if size else None


def _bump_versions(op: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """Make the body of a mutable op bump its arguments' versions, which raw writes do not."""
    written = [
        index
        for index, argument in enumerate(op._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]

    def body(*args: Any) -> Any:
        for index in written:
            given = args[index]
            for tensor in given if isinstance(given, list) else (given,):
                if not tensor.is_inference():  # those have no version
                    torch.autograd.graph.increment_version(tensor)
        return function(*args)

    return body


def define_gradient(name: str, setup: Callable[..., None], backward: Callable[..., Any]) -> None:
    """Register the gradient of an op.

    `torch.library.register_autograd` does the same, but walks over the schema in every call, and
    makes zeros for every result that has no gradient.

    Args:
        name: the op's.
        setup: `setup(ctx, inputs, output)` saves what the gradient needs.
        backward: `backward(ctx, *grads)` returns the gradients of the first inputs, as a tuple;
            the other inputs have none. A result that nothing depends on comes as None; it is not
            called where all are.
    """
    op = _find_op(name)

    def redispatch(keyset: Any, *args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return op.redispatch(keyset & torch._C._after_autograd_keyset, *args)

    def forward(ctx: Any, *args: Any) -> Any:
        *inputs, keyset = args
        output = redispatch(keyset, *inputs)
        ctx.set_materialize_grads(False)
        setup(ctx, inputs, output)
        return output

    def spread(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        known = () if all(grad is None for grad in grads) else backward(ctx, *grads)
        return (*known, *[None] * (len(ctx.needs_input_grad) - len(known)))

    methods = {"forward": staticmethod(forward), "backward": staticmethod(spread)}
    function: Any = type(f"{NAMESPACE}_{name}", (torch.autograd.Function,), methods)

    def run(keyset: Any, *args: Any) -> Any:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
            for given in args:  # autograd does not look into lists
                if isinstance(given, list | tuple) and torch._C._any_requires_grad(*given):
                    raise RuntimeError(f"{NAMESPACE}::{name} has no derivative by what is listed")
            return function.apply(*args, keyset)
        return redispatch(keyset, *args)

    LIBRARY.impl(name, run, "Autograd", with_keyset=True)


def forbid_gradient(name: str) -> None:
    """Make differentiating through an op an error that says so, instead of a silent zero."""

    def save_nothing(ctx: Any, inputs: Any, output: Any) -> None:
        return None

    def backward(ctx: Any, *grads: Tensor | None) -> None:
        raise RuntimeError(f"rlhf_kernels::{name} has no derivative")

    define_gradient(name, save_nothing, backward)


def result_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype of results: float64 for float64 input, else float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def new_result(like: Tensor, *shape: int) -> Tensor:
    """Allocate a dense result of `shape` in the result dtype, on the device of `like`."""
    return like.new_empty(shape, dtype=result_dtype(like))


def promote(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return floating tensors dense and in one result dtype: float64 if any is, else float32.

    Other dtypes pass unchanged, so that the kernel refuses them by name.
    """
    wide = any(tensor.dtype == torch.float64 for tensor in tensors)
    dtype = torch.float64 if wide else torch.float32
    return tuple(_convert(tensor, dtype) for tensor in tensors)


def _convert(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if tensor.dtype != dtype and tensor.is_floating_point():
        tensor = tensor.to(dtype)
    return tensor.contiguous()


def optional_denominator(denominator: float | Tensor | None, mask: Tensor) -> Tensor | None:
    """Return `denominator` as `make_denominator` does; None leaves the count to the kernel."""
    return None if denominator is None else make_denominator(denominator, mask)


# One launch on a GPU, where the product of two numbers would be another.
_loss_gradient = define_op(
    "loss_gradient(Tensor grad, Tensor upstream, Tensor scale) -> Tensor",
    lambda grad, *_: torch.empty_like(grad),
)
forbid_gradient("loss_gradient")


def scale_gradient(ctx: Any, grad_loss: Tensor, *unused: Tensor | None) -> tuple[Tensor]:
    """Return the gradient of a loss whose forward saved `(token_grad, scale)`.

    The first input is the only differentiable one.
    """
    token_grad, scale = ctx.saved_tensors
    return (_loss_gradient(token_grad, grad_loss, scale),)


def save_loss_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    """Save for `scale_gradient` from an op that returns `(loss, stats, token_grad, scale)`."""
    _, stats, token_grad, scale = output
    ctx.mark_non_differentiable(stats, token_grad, scale)
    ctx.save_for_backward(token_grad, scale)


def loss_outputs(like: Tensor, stats: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Allocate `(loss, stats, token_grad, scale)` of a loss over the elements of `like`."""
    return (
        new_result(like),
        new_result(like, stats),
        torch.empty_like(like, memory_format=torch.contiguous_format),
        torch.empty((), dtype=torch.float64, device=like.device),
    )


def make_denominator(denominator: float | Tensor | None, mask: Tensor) -> Tensor:
    """Return what a masked mean divides by, as a 0-d float64 tensor on the mask's device.

    Args:
        denominator: a count (float or 0-d tensor), so that micro-batches add up to one batch;
            None means the number of True entries of `mask`.
        mask: bool, True counts.
    """
    if denominator is None:
        return mask.sum(dtype=torch.float64)
    if isinstance(denominator, Tensor):
        return denominator.detach().to(device=mask.device, dtype=torch.float64)
    return torch.full((), denominator, dtype=torch.float64, device=mask.device)


def current_isa() -> str:
    """Return the instruction set of the CPU row kernels.

    "amx", "avx512bf16", "avx512", "avx2" or "baseline"; the environment variable RLHF_KERNELS_ISA
    overrides the machine's best.
    """
    return _C.current_isa()


def has_cuda() -> bool:
    """Say whether this build of rlhf_kernels has CUDA kernels; a device may still be missing."""
    return _C.has_cuda()


def read_probe(tensor: Tensor, out: Tensor) -> None:
    """Read a tensor on a CUDA device once and do nothing with it: the read roofline's kernel.

    Args:
        tensor: float32, contiguous, on a CUDA device.
        out: float32 on the same device; left as it is.
    """
    _C.read_probe(tensor, out)

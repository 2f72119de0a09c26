"""The packages of others: their functions behind one signature each, or the reason why not.

Each loader imports what its package documents and adapts it. A package that is missing, or whose
functions have other names or arguments than the versions known here, gives a row that says so.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlhf_kernels.bench.cases import Provider, Results
from rlhf_kernels.bench.providers import Function


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package as it is imported, installed and named in a row."""

    module: str
    distribution: str
    title: str


LIGER = Package(module="liger_kernel", distribution="liger-kernel", title="Liger")
QUACK = Package(module="quack", distribution="quack-kernels", title="QuACK")
FLASH = Package(module="flash_attn", distribution="flash-attn", title="flash-attn")
CUT = Package(
    module="cut_cross_entropy", distribution="cut-cross-entropy", title="cut-cross-entropy"
)
FLASHINFER = Package(module="flashinfer", distribution="flashinfer-python", title="FlashInfer")


def make_foreign(
    package: Package,
    what: str,
    load: Callable[[], Function],
    call: Callable[[Function], Results],
    device: str,
    prepare: Callable[[], Any] | None = None,
) -> Provider:
    """Return a provider of somebody else's function, or a row with the reason why it cannot run.

    Args:
        package: whose function it is.
        what: the function in a word or two, for the name of the row.
        load: imports and adapts the function; a missing name or argument means another API.
        call: calls the function with the inputs of the case and names its results.
        device: where the inputs lie; none of these packages computes on a CPU.
        prepare: restores what the function overwrites.
    """
    name = f"{package.title} {what}"
    reason = find_obstacle(package, device)
    if reason:
        return Provider(name=name, run=None, note=reason)
    try:
        function = load()
    except Exception as error:  # whatever importing it raises; our own rows must not be lost
        why = f"{describe_package(package)}, but {tell_failure(package, error)}"
        return Provider(name=name, run=None, note=why)
    version = find_version(package)
    return Provider(name=name, run=lambda: call(function), prepare=prepare, note=version)


def find_obstacle(package: Package, device: str) -> str:
    """Return why no function of the package can run here, or nothing."""
    if importlib.util.find_spec(package.module) is None:
        return f"{package.distribution} is not installed"
    if device == "cpu":
        return f"{describe_package(package)}, but its kernels need a CUDA device"
    return ""


def describe_package(package: Package) -> str:
    """Return that the package is installed, and its version where that is known."""
    version = find_version(package)
    return f"{package.distribution} is installed" + (f" as {version}" if version else "")


def find_version(package: Package) -> str:
    """Return the installed version, empty for a folder without metadata."""
    try:
        return importlib.metadata.version(package.distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def tell_failure(package: Package, error: Exception) -> str:
    """Return whether a package differs from the versions known here, or cannot be imported."""
    words = " ".join(str(error).split())[:120]
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    ours = missing is None or missing.split(".")[0] == package.module
    if ours and isinstance(error, ImportError | AttributeError):
        return f"its API differs: {words}"
    return f"cannot be imported: {type(error).__name__}: {words}"


def require(function: Function, *names: str) -> Function:
    """Return `function` after a look whether it takes these arguments.

    Raises:
        ImportError: an argument is missing: another version than the ones known here.
    """
    known = inspect.signature(function).parameters
    missing = [name for name in names if name not in known]
    if missing:
        raise ImportError(f"{function.__name__} takes no argument {missing[0]}")
    return function


def load_liger_cross_entropy() -> Function:
    """Return (logits, targets) -> mean loss; the forward pass overwrites the logits."""
    module = importlib.import_module("liger_kernel.transformers.cross_entropy")
    loss = module.LigerCrossEntropyLoss()
    return lambda logits, targets: loss(logits, targets)


def load_liger_logprobs() -> Function:
    """Return (logits [1, N + 1, V], targets [N]) -> log-probs [N] of the first N rows."""
    module = importlib.import_module("liger_kernel.ops.grpo_loss")
    function = require(module.fused_selective_log_softmax, "input_ids", "temperature")
    return lambda padded, targets: function(padded, targets[None], temperature=1.0)[0]


def load_liger_grpo() -> Function:
    """Return (logits [B, T + 1, V], old [B, T], targets, advantages [B], mask, cliprange) -> loss.

    One advantage per answer, as in GRPO; the last row of each answer's logits is not used. The
    backward pass overwrites the logits.
    """
    module = importlib.import_module("liger_kernel.transformers.grpo_loss")
    function = require(module.triton_grpo_loss, "eps_low", "eps_high", "inplace", "beta")

    def loss(
        logits: Tensor,
        old: Tensor,
        targets: Tensor,
        advantages: Tensor,
        mask: Tensor,
        cliprange: float,
    ) -> Tensor:
        tokens = function(
            logits,
            old,
            None,
            targets,
            advantages,
            completion_mask=mask,
            temperature=1.0,
            beta=0.0,
            eps_low=cliprange,
            eps_high=cliprange,
            inplace=True,
        )[0]
        return (tokens * mask).sum() / mask.sum()

    return loss


def load_liger_linear_cross_entropy() -> Function:
    """Return (hidden, weight, targets) -> mean loss; gradients come with the forward pass."""
    module = importlib.import_module("liger_kernel.transformers.fused_linear_cross_entropy")
    loss = module.LigerFusedLinearCrossEntropyLoss()
    return lambda hidden, weight, targets: loss(weight, hidden, targets)


def load_liger_linear_grpo() -> Function:
    """Return (hidden [B, T, D], weight, targets, old, advantages [B], mask, cliprange) -> loss.

    An answer at a time, as its default is; no reference, and the mean over tokens.
    """
    module = importlib.import_module("liger_kernel.chunked_loss.grpo_loss")
    make = require(
        module.LigerFusedLinearGRPOLoss,
        *("beta", "use_ref_model", "epsilon_low", "epsilon_high", "loss_type"),
    )

    def loss(
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        old: Tensor,
        advantages: Tensor,
        mask: Tensor,
        cliprange: float,
    ) -> Tensor:
        function = make(
            beta=0.0,
            use_ref_model=False,
            epsilon_low=cliprange,
            epsilon_high=cliprange,
            loss_type="bnpo",
        )
        found = function(hidden, weight, targets, mask, advantages, old_per_token_logps=old)
        total: Tensor = found[0]
        return total

    return loss


def load_cut_linear_cross_entropy() -> Function:
    """Return (hidden, weight, targets) -> mean loss, of 16-bit inputs."""
    module = importlib.import_module("cut_cross_entropy")
    return require(module.linear_cross_entropy, "e", "c", "targets")


def load_quack_cross_entropy() -> Function:
    """Return (logits, targets) -> mean loss; the backward pass overwrites the logits."""
    function = load_quack()
    return lambda logits, targets: function(
        logits, targets, reduction="mean", inplace_backward=True
    )


def load_quack_logprobs() -> Function:
    """Return (logits, targets) -> log-probs."""
    function = load_quack()
    return lambda logits, targets: -function(logits, targets, reduction="none")


def load_quack() -> Function:
    """Return QuACK's cross_entropy."""
    module = importlib.import_module("quack.cross_entropy")
    return require(module.cross_entropy, "reduction", "inplace_backward")


def load_flash_cross_entropy() -> Function:
    """Return (logits, targets) -> mean loss; the backward pass overwrites the logits."""
    function = load_flash()
    return lambda logits, targets: function(logits, targets, inplace_backward=True)[0].mean()


def load_flash_logprobs() -> Function:
    """Return (logits, targets) -> log-probs."""
    function = load_flash()
    return lambda logits, targets: -function(logits, targets)[0]


def load_flash() -> Function:
    """Return flash-attn's cross_entropy_loss, which returns (losses, z_losses)."""
    module = importlib.import_module("flash_attn.ops.triton.cross_entropy")
    return require(module.cross_entropy_loss, "inplace_backward")


def load_flashinfer_sampling() -> Function:
    """Return (logits) -> tokens sampled from their softmax, and their log-probs."""
    module = importlib.import_module("flashinfer.sampling")
    function = require(module.sampling_from_logits, "logits")

    def sample(logits: Tensor) -> tuple[Tensor, Tensor]:
        tokens = function(logits.float()).long()
        logp = torch.log_softmax(logits.float(), dim=-1)
        return tokens, logp.gather(-1, tokens[:, None]).squeeze(-1)

    return sample

"""`--version`: what a report of a fault should name. Loads neither torch nor transformers."""

from __future__ import annotations

import platform

from toolkit.pipeline import gpu
from toolkit.pipeline.machine import package_versions


def version_text() -> str:
    """Return the versions of the toolkit and of what it stands on, and how the kernels are built.

    What is missing says so.
    """
    found = package_versions()
    own, torch, transformers = (
        found[name] or "not installed" for name in ("rlhf-toolkit", "torch", "transformers")
    )
    return "\n".join(
        [
            f"rlhf-toolkit {own}, Python {platform.python_version()}",
            f"torch {torch}{_cuda_text() if found['torch'] else ''}, transformers {transformers}",
            f"kernels {_kernels_text()}",
        ]
    )


def _cuda_text() -> str:
    built_for = gpu.torch_cuda()
    return f" (for CUDA {built_for})" if built_for else " (without CUDA)"


def _kernels_text() -> str:
    if not gpu.kernel_files():
        return "not built; run: pip install -e ."
    return f"built, {'with' if gpu.kernels_have_cuda() else 'without'} CUDA"

"""RLHF mathematics as PyTorch operators on native kernels."""

from rlhf_kernels.ops.token_kl import token_kl

__all__ = [
    "token_kl",
]

"""Float64 reference of advantages from scores; see `rlhf_kernels.ops.advantages`."""

from torch import Tensor

from rlhf_kernels.reference.gae import gae
from rlhf_kernels.reference.shaped_rewards import shaped_rewards


def advantages(
    scores: Tensor,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    values: Tensor,
    mask: Tensor,
    *,
    kl_coef: float,
    gamma: float,
    lam: float,
    estimator: str = "k1",
    whiten: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute advantages, returns and rewards, one definition after the other."""
    rewards = shaped_rewards(
        scores, logprobs, ref_logprobs, mask, kl_coef=kl_coef, estimator=estimator
    )
    return (*gae(rewards, values, mask, gamma=gamma, lam=lam, whiten=whiten), rewards)

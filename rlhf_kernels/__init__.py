"""RLHF mathematics as PyTorch operators on native kernels."""

from rlhf_kernels._registry import current_isa, has_cuda
from rlhf_kernels.ops.advantages import advantages
from rlhf_kernels.ops.causal_attention import causal_attention
from rlhf_kernels.ops.cross_entropy import cross_entropy
from rlhf_kernels.ops.decoder_layers import decoder_layers, lay_out_layers
from rlhf_kernels.ops.exact_kl import exact_kl
from rlhf_kernels.ops.explained_variance import explained_variance
from rlhf_kernels.ops.feed_forward import feed_forward
from rlhf_kernels.ops.gae import gae
from rlhf_kernels.ops.gather_logprobs import LogProbs, gather_logprobs
from rlhf_kernels.ops.gelu_tanh import gelu_tanh
from rlhf_kernels.ops.kto_loss import kto_loss
from rlhf_kernels.ops.linear_cross_entropy import linear_cross_entropy
from rlhf_kernels.ops.linear_logprobs import linear_logprobs
from rlhf_kernels.ops.linear_ppo_loss import linear_ppo_loss
from rlhf_kernels.ops.masked_mean import masked_mean
from rlhf_kernels.ops.ppo_loss import ppo_loss
from rlhf_kernels.ops.ppo_loss_from_logits import ppo_loss_from_logits
from rlhf_kernels.ops.ranking_loss import ranking_loss
from rlhf_kernels.ops.sample import Samples, sample
from rlhf_kernels.ops.self_attention import self_attention
from rlhf_kernels.ops.shaped_rewards import shaped_rewards
from rlhf_kernels.ops.token_kl import token_kl
from rlhf_kernels.ops.value_loss import value_loss
from rlhf_kernels.ops.whiten import whiten

__all__ = [
    "LogProbs",
    "Samples",
    "advantages",
    "causal_attention",
    "cross_entropy",
    "current_isa",
    "decoder_layers",
    "exact_kl",
    "explained_variance",
    "feed_forward",
    "gae",
    "gather_logprobs",
    "gelu_tanh",
    "has_cuda",
    "kto_loss",
    "lay_out_layers",
    "linear_cross_entropy",
    "linear_logprobs",
    "linear_ppo_loss",
    "masked_mean",
    "ppo_loss",
    "ppo_loss_from_logits",
    "ranking_loss",
    "sample",
    "self_attention",
    "shaped_rewards",
    "token_kl",
    "value_loss",
    "whiten",
]

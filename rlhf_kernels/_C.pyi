"""Types of the native module: inputs, scalars, then the outputs to fill."""

from torch import Tensor

def token_kl(logprobs: Tensor, ref_logprobs: Tensor, estimator: str, out: Tensor, /) -> None: ...
def token_kl_backward(
    grad_out: Tensor, logprobs: Tensor, ref_logprobs: Tensor, estimator: str, grad: Tensor, /
) -> None: ...
def ppo_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    cliprange: float,
    denominator: Tensor | None,
    loss: Tensor,
    stats: Tensor,
    token_grad: Tensor,
    scale: Tensor,
    workspace: Tensor | None,
    /,
) -> None: ...
def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    cliprange_value: float,
    denominator: Tensor | None,
    loss: Tensor,
    stats: Tensor,
    token_grad: Tensor,
    scale: Tensor,
    workspace: Tensor | None,
    /,
) -> None: ...
def shaped_rewards(
    scores: Tensor,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    mask: Tensor,
    kl_coef: float,
    estimator: str,
    rewards: Tensor,
    /,
) -> None: ...
def gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    gamma: float,
    lam: float,
    whiten_advantages: bool,
    advantages: Tensor,
    returns: Tensor,
    workspace: Tensor | None,
    /,
) -> None: ...
def whiten(
    x: Tensor, mask: Tensor, shift_mean: bool, out: Tensor, workspace: Tensor | None, /
) -> None: ...
def ranking_loss(
    scores: Tensor,
    ranks: Tensor,
    group_offsets: Tensor,
    ties: str,
    denominator: Tensor | None,
    loss: Tensor,
    stats: Tensor,
    score_grad: Tensor,
    scale: Tensor,
    workspace: Tensor | None,
    /,
) -> None: ...
def current_isa() -> str: ...
def gather_logprobs(
    logits: Tensor,
    targets: Tensor,
    mask: Tensor | None,
    temperatures: Tensor | None,
    temperature: float,
    logprobs: Tensor,
    entropy: Tensor,
    logsumexp: Tensor,
    rows: Tensor,
    /,
) -> None: ...
def gather_logprobs_backward(
    grad_logprobs: Tensor,
    grad_entropy: Tensor,
    grad_logsumexp: Tensor,
    logits: Tensor,
    targets: Tensor,
    rows: Tensor,
    grad_logits: Tensor,
    /,
) -> None: ...
def gather_logprobs_backward_(
    grad_logprobs: Tensor,
    grad_entropy: Tensor,
    grad_logsumexp: Tensor,
    logits: Tensor,
    targets: Tensor,
    rows: Tensor,
    /,
) -> None: ...
def ppo_loss_from_logits(
    logits: Tensor,
    targets: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    ref_logprobs: Tensor | None,
    ref_logits: Tensor | None,
    ptx_mask: Tensor | None,
    temperatures: Tensor | None,
    denominator: Tensor | None,
    ptx_denominator: Tensor | None,
    temperature: float,
    cliprange: float,
    entropy_coef: float,
    kl_coef: float,
    ptx_coef: float,
    kl_estimator: str,
    loss: Tensor,
    stats: Tensor,
    rows: Tensor,
    workspace: Tensor | None,
    /,
) -> None: ...
def ppo_loss_from_logits_(
    logits: Tensor,
    targets: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    ref_logprobs: Tensor | None,
    ref_logits: Tensor | None,
    ptx_mask: Tensor | None,
    temperatures: Tensor | None,
    denominator: Tensor | None,
    ptx_denominator: Tensor | None,
    temperature: float,
    cliprange: float,
    entropy_coef: float,
    kl_coef: float,
    ptx_coef: float,
    kl_estimator: str,
    loss: Tensor,
    stats: Tensor,
    rows: Tensor,
    workspace: Tensor | None,
    /,
) -> None: ...
def ppo_loss_from_logits_backward(
    logits: Tensor,
    ref_logits: Tensor | None,
    targets: Tensor,
    rows: Tensor,
    upstream: Tensor,
    grad_logits: Tensor,
    /,
) -> None: ...
def ppo_loss_from_logits_scale_(grad: Tensor, rows: Tensor, upstream: Tensor, /) -> None: ...
def causal_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, out: Tensor, /
) -> None: ...
def causal_attention_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    grad_query: Tensor,
    grad_key: Tensor,
    grad_value: Tensor,
    /,
) -> None: ...
def decoder_layers(
    hidden: Tensor,
    weights: list[Tensor],
    keys: list[Tensor],
    values: list[Tensor],
    rows: Tensor | None,
    starts: Tensor | None,
    used: int,
    heads: int,
    scale: float,
    eps: float,
    lowered: bool,
    out: Tensor,
    /,
) -> None: ...
def feed_forward(
    hidden: Tensor,
    rows: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    eps: float,
    lowered: bool,
    out: Tensor,
    inner: Tensor,
    /,
) -> None: ...
def feed_forward_backward(
    grad_out: Tensor,
    inner: Tensor,
    hidden: Tensor,
    rows: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    eps: float,
    lowered: bool,
    /,
    *grads: Tensor,
) -> None: ...
def gelu_tanh(x: Tensor, out: Tensor, /) -> None: ...
def gelu_tanh_backward(grad_out: Tensor, x: Tensor, grad_x: Tensor, /) -> None: ...
def exact_kl(
    logits: Tensor,
    ref_logits: Tensor,
    mask: Tensor | None,
    temperatures: Tensor | None,
    temperature: float,
    kl: Tensor,
    rows: Tensor,
    /,
) -> None: ...
def exact_kl_backward(
    grad_kl: Tensor, logits: Tensor, ref_logits: Tensor, kl: Tensor, rows: Tensor, grad: Tensor, /
) -> None: ...
def has_cuda() -> bool: ...
def read_probe(tensor: Tensor, out: Tensor, /) -> None: ...
def workspace_size(op: str, first: Tensor, items: int, /) -> int: ...
def sample(
    logits: Tensor,
    row_ids: Tensor,
    positions: Tensor,
    temperatures: Tensor | None,
    temperature: float,
    seed: int,
    top_k: int,
    top_p: float,
    tokens: Tensor,
    logprobs: Tensor,
    truncated_logprobs: Tensor,
    entropy: Tensor,
    /,
) -> None: ...
def self_attention(
    hidden: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    in_weight: Tensor,
    in_bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    heads: int,
    scale: float,
    eps: float,
    lowered: bool,
    out: Tensor,
    states: Tensor,
    attended: Tensor,
    /,
) -> None: ...
def self_attention_backward(
    grad_out: Tensor,
    states: Tensor,
    attended: Tensor,
    hidden: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    in_weight: Tensor,
    in_bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    heads: int,
    scale: float,
    eps: float,
    lowered: bool,
    /,
    *grads: Tensor,
) -> None: ...

"""ppo_loss_from_logits: what it refuses, its in-place form and its identity in PyTorch."""

import pytest
import torch

import rlhf_kernels as rk
from tests.ops.policy import CLIP, loss_and_grad, make_batch, make_terms


def test_in_place_bumps_the_version_and_refuses_a_second_backward():
    batch = make_batch(4, 30)
    leaf = batch[0].clone().requires_grad_()
    logits = leaf * 1
    squared = logits.square().sum()  # keeps the logits for its own backward
    version = logits._version
    loss, _ = rk.ppo_loss_from_logits(logits, *batch[1:], cliprange=CLIP, inplace=True)
    assert logits._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squared.backward()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_no_rows():
    empty = make_batch(0, 50257)
    loss, grad, _ = loss_and_grad(rk.ppo_loss_from_logits, empty, inplace=True)
    assert loss == 0
    assert grad.shape == (0, 50257)


def test_k1_in_the_loss_is_refused_with_the_reason():
    batch = make_batch(3, 8)
    with pytest.raises(ValueError, match="in the loss, k1's expected gradient is zero"):
        rk.ppo_loss_from_logits(
            *batch, cliprange=CLIP, kl_coef=0.1, kl_estimator="k1", ref_logprobs=batch[2]
        )


def test_errors_name_the_argument():
    batch = logits, targets, old, advantages, mask = make_batch(3, 8)
    mask[:] = True
    ref = logits.clone()

    def call(*arguments, **options):
        return lambda: rk.ppo_loss_from_logits(*arguments, **{"cliprange": CLIP, **options})

    for match, broken in {
        "'old_logprobs' must be float32, got bfloat16": call(
            logits, targets, old.bfloat16(), advantages, mask
        ),
        "'advantages' must have shape": call(logits, targets, old, advantages[:2], mask),
        "'mask' must be bool": call(logits, targets, old, advantages, mask.float()),
        "'cliprange' must be finite": call(*batch, cliprange=-0.1),
        "'kl_coef' is not 0, so pass": call(*batch, kl_coef=0.1),
        "'ptx_coef' is not 0, so pass": call(*batch, ptx_coef=1.0),
        "'ref_logits' and 'ref_logprobs' exclude": call(*batch, ref_logprobs=old, ref_logits=ref),
        "'ref_logits' must not share memory": call(*batch, ref_logits=logits, inplace=True),
        "'denominator' must be positive": call(*batch, denominator=0.0),
        "'logits' must not have overlapping": call(
            logits[:1].expand(3, 8), *batch[1:], inplace=True
        ),
    }.items():
        with pytest.raises(ValueError, match=match):
            broken()


def schema_arguments(batch, **changes):
    arguments = {
        "ref_logprobs": None,
        "ref_logits": None,
        "ptx_mask": ~batch[4],
        "temperatures": None,
        "denominator": None,
        "ptx_denominator": None,
        "temperature": 0.9,
        "cliprange": CLIP,
        "entropy_coef": 0.1,
        "kl_coef": 0.0,
        "ptx_coef": 1.0,
        "kl_estimator": "k3",
    }
    return (*batch, *{**arguments, **changes}.values())


def test_opcheck_out_of_place_and_in_place():
    batch = make_batch(4, 9)
    ops = torch.ops.rlhf_kernels
    leaf = batch[0].clone().requires_grad_()
    reference_logits = batch[0] + 0.1
    torch.library.opcheck(
        ops.ppo_loss_from_logits.default,
        schema_arguments((leaf, *batch[1:]), ref_logits=reference_logits, kl_coef=0.1),
    )
    torch.library.opcheck(ops.ppo_loss_from_logits_.default, schema_arguments(batch))


@pytest.mark.parametrize("terms", ["all", "k3"])
def test_gradcheck(terms):
    batch = make_batch(4, 7, torch.float64)
    options = make_terms(terms, batch[0], batch[1], batch[4])
    assert torch.autograd.gradcheck(
        lambda x: rk.ppo_loss_from_logits(
            x, *batch[1:], cliprange=CLIP, temperature=0.9, **options
        )[0],
        (batch[0].requires_grad_(),),
    )


@pytest.mark.parametrize("inplace", [False, True])
def test_compiles_without_graph_breaks(inplace):
    batch = make_batch(6, 40)
    hidden, weight = torch.randn(6, 8), torch.randn(8, 40)

    def loss(h, w):
        return rk.ppo_loss_from_logits(h @ w, *batch[1:], cliprange=CLIP, inplace=inplace)[0] * 2

    grads = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        leaf = hidden.clone().requires_grad_()
        function(leaf, weight).backward()
        grads.append(leaf.grad)
    assert torch.equal(*grads)

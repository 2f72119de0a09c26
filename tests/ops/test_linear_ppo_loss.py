"""linear_ppo_loss: equal to ppo_loss_from_logits over held logits, for any chunk, mask and head."""

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.ops import _matmul
from rlhf_kernels.reference.linear_ppo_loss import linear_ppo_loss as reference
from tests.ops.helpers import assert_stats_near_truth
from tests.ops.linear import (
    CLIP,
    ROWS,
    chunk_bytes,
    gradients,
    head_logits,
    leaves,
    make_inputs,
    make_policy,
)
from tests.tolerances import assert_gradient_near_truth, assert_near_truth

TERMS = ["plain", "entropy", "k2", "k3", "exact", "ptx", "all", "capped"]


def make_terms(name, hidden, weight, targets, mask):
    """The options of one variant; the reference has another width than the policy."""
    ref_hidden, ref_weight, ref_bias, *_ = make_inputs(len(hidden), 24, dtype=hidden.dtype, seed=5)
    exact = {"ref_hidden": ref_hidden, "ref_weight": ref_weight, "ref_bias": ref_bias}
    ref_logprobs = rk.gather_logprobs(ref_hidden @ ref_weight.T, targets).logprobs
    ptx_mask = ~mask & (torch.arange(len(mask)) % 2 == 0)
    ptx_mask[mask.nonzero()[0]] = True
    both = {"ptx_mask": ptx_mask, "ptx_coef": 2.0}
    return {
        "plain": {},
        "entropy": {"entropy_coef": 0.1, "temperature": torch.linspace(0.5, 2, len(mask))},
        "k2": {"kl_coef": 0.3, "kl_estimator": "k2", "ref_logprobs": ref_logprobs},
        "k3": {"kl_coef": 0.3, "ref_logprobs": ref_logprobs},
        "exact": {"kl_coef": 0.3, **exact},
        "ptx": {**both, "ptx_denominator": 5.0},
        "all": {"entropy_coef": 0.02, "kl_coef": 0.1, "denominator": 40.0, **both, **exact},
        "capped": {"kl_coef": 0.1, "softcap": 5.0, "logit_scale": 0.5, **exact},
    }[name]


def run(function, inputs, upstream=1.0, **options):
    """Loss, gradients of hidden, weight and bias, and statistics."""
    hidden, weight, bias, *rows = inputs
    copies = leaves(hidden, weight, bias)
    loss, stats = function(*copies[:2], *rows, cliprange=CLIP, bias=copies[2], **options)
    return loss.detach(), gradients(upstream * loss, *copies), stats


def over_logits(hidden, weight, *rows, bias=None, logit_scale=1.0, softcap=None, **options):
    """The same through held logits."""
    ref = [options.pop(name, None) for name in ("ref_hidden", "ref_weight", "ref_bias")]
    if ref[0] is not None:
        options["ref_logits"] = head_logits(*ref, logit_scale, softcap)
    logits = head_logits(hidden, weight, bias, logit_scale, softcap)
    return rk.ppo_loss_from_logits(logits, *rows, **options)


def make_batch(dtype=torch.float32):
    hidden, weight, bias, targets, mask = make_inputs(dtype=dtype)
    return hidden, weight, bias, targets, *make_policy(hidden, weight, targets), mask


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("terms", TERMS)
def test_loss_gradients_and_statistics_match_held_logits_and_float64(terms, rows):
    batch = make_batch()
    options = make_terms(terms, batch[0], batch[1], batch[3], batch[6])
    held = 1 + ("ref_hidden" in options) + ("softcap" in options)
    budget = chunk_bytes(rows, held=held)
    loss, grads, stats = run(rk.linear_ppo_loss, batch, 3.0, chunk_bytes=budget, **options)
    held_loss, held_grads, held_stats = run(over_logits, batch, 3.0, **options)
    truth, true_grads, _ = run(
        reference, [x.double() if i < 3 else x for i, x in enumerate(batch)], 3.0, **options
    )
    assert_near_truth(loss, truth, held_loss)
    assert_stats_near_truth(stats, held_stats)
    for triple in zip(grads, true_grads, held_grads, strict=True):
        assert_gradient_near_truth(*triple)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_match_held_logits(dtype, rows):
    batch = make_batch(dtype)
    loss, grads, stats = run(rk.linear_ppo_loss, batch, chunk_bytes=chunk_bytes(rows, dtype=dtype))
    held_loss, held_grads, held_stats = run(over_logits, batch)
    assert_near_truth(loss, held_loss)
    assert_stats_near_truth(stats, held_stats)
    for grad, held in zip(grads, held_grads, strict=True):
        assert grad.dtype == dtype
        # Rounded to the storage type per product on both sides.
        tolerance = {torch.float64: 1e-12, torch.float16: 4e-3}.get(dtype, 3e-2)
        assert (grad.double() - held.double()).abs().max() <= tolerance * held.abs().max()


def test_ratio_statistics_join_exactly_over_uneven_chunks():
    batch = list(make_batch(torch.float64))
    batch[4] = batch[4] - torch.linspace(-3, 3, len(batch[4]))  # the chunks' means differ
    _, _, whole = run(over_logits, batch)
    for rows in (1, 2, 7):
        budget = chunk_bytes(rows, dtype=torch.float64)
        _, _, stats = run(rk.linear_ppo_loss, batch, chunk_bytes=budget)
        for name, value in stats.items():
            assert abs(float(value / whole[name]) - 1) < 1e-12, name


def test_all_rows_masked():
    batch = make_batch()
    mask = torch.zeros_like(batch[6])
    loss, grads, stats = run(rk.linear_ppo_loss, (*batch[:6], mask))
    assert loss == 0
    assert all((g == 0).all() for g in grads)
    assert all(value == 0 for value in stats.values())


def test_packed_rows_give_the_same_and_masked_ones_gradient_zero():
    batch = make_batch()
    loss, grads, _ = run(rk.linear_ppo_loss, batch)
    other, others, _ = run(rk.linear_ppo_loss, batch, packed=True)
    assert_near_truth(other, loss)
    assert (others[0][~batch[6]] == 0).all()
    for grad, twin in zip(grads, others, strict=True):
        assert (grad - twin).abs().max() < 1e-6 * grad.abs().max()


@pytest.mark.parametrize("wants", [(), (0,), (1,), (0, 1)])
def test_only_the_wanted_products_are_formed(wants, monkeypatch):
    counts = dict.fromkeys(("multiply_logits", "multiply_hidden", "add_weight_gradient"), 0)
    for name in counts:
        original = getattr(_matmul, name)

        def counting(*args, name=name, original=original):
            counts[name] += 1
            return original(*args)

        monkeypatch.setattr(_matmul, name, counting)
    batch = make_batch()
    hidden, weight = (x.requires_grad_(i in wants) for i, x in enumerate(leaves(*batch[:2])))
    loss, _ = rk.linear_ppo_loss(hidden, weight, *batch[3:], cliprange=CLIP)
    assert loss.requires_grad == bool(wants)
    assert list(counts.values()) == [1, int(0 in wants), int(1 in wants)]


def test_nothing_is_formed_for_gradients_under_no_grad():
    batch = make_batch()
    hidden, weight = leaves(*batch[:2])
    with torch.no_grad():
        loss, _ = rk.linear_ppo_loss(hidden, weight, *batch[3:], cliprange=CLIP)
    assert not loss.requires_grad


def test_a_second_backward_is_refused():
    batch = make_batch()
    hidden, weight = leaves(*batch[:2])
    loss, _ = rk.linear_ppo_loss(hidden, weight, *batch[3:], cliprange=CLIP)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_backward_adds_no_copy_of_the_weights_gradient():
    batch = make_batch()
    hidden, weight = leaves(*batch[:2])
    loss, _ = rk.linear_ppo_loss(hidden, weight, *batch[3:], cliprange=CLIP)
    saved = loss.grad_fn.saved_tensors[1].data_ptr()
    loss.backward()
    assert weight.grad.data_ptr() == saved


def test_gradients_are_the_slopes_of_the_loss():
    # gradcheck runs backward twice, which the op refuses.
    hidden, weight, bias, targets, mask = make_inputs(6, 3, 7, torch.float64)
    rows = (targets, *make_policy(hidden, weight, targets), mask)
    options = make_terms("capped", hidden, weight, targets, mask)
    options["ref_weight"], options["ref_bias"] = options["ref_weight"][:7], options["ref_bias"][:7]
    budget = chunk_bytes(2, 7, torch.float64, held=3)

    def loss(h, w, b):
        return rk.linear_ppo_loss(
            h, w, *rows, cliprange=CLIP, bias=b, entropy_coef=0.1, chunk_bytes=budget, **options
        )[0]

    inputs = leaves(hidden, weight, bias)
    grads = gradients(loss(*inputs), *inputs)
    with torch.no_grad():
        for which, grad in enumerate(grads):
            step = 1e-6 * torch.randn(grad.shape, dtype=grad.dtype)
            ends = [
                [x + s * step if i == which else x for i, x in enumerate(inputs)] for s in (1, -1)
            ]
            slope = (loss(*ends[0]) - loss(*ends[1])) / 2
            assert abs(slope - (grad * step).sum()) < 1e-6 * abs(slope)


def test_compiles_without_graph_breaks():
    batch = make_batch()

    def loss(h, w):
        value, stats = rk.linear_ppo_loss(
            torch.tanh(h), w, *batch[3:], cliprange=CLIP, chunk_bytes=chunk_bytes(8)
        )
        return 2 * value, stats["entropy"]

    results = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        copies = leaves(*batch[:2])
        value, entropy = function(*copies)
        results.append((value, entropy, *gradients(value, *copies)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_opcheck():
    hidden, weight, bias, targets, mask = make_inputs(5, 4, 9)
    old, advantages = make_policy(hidden, weight, targets)
    one = torch.tensor(5.0, dtype=torch.float64)
    tensors = (hidden, weight, bias, None, None, targets, old, advantages, mask, *[None] * 4, one)
    options = (None, 1.0, CLIP, 0.0, 0.0, 0.0, "k3", 0.0, None, None, False)
    op = torch.ops.rlhf_kernels.linear_ppo_loss.default
    for wants in ([True, True, True], [False, True, False]):
        torch.library.opcheck(op, (*tensors, *options, wants, "linear_ppo_loss"))
    scale = torch.ops.rlhf_kernels.linear_scale_.default
    torch.library.opcheck(scale, (torch.ones(3, 2), torch.tensor(2.0)))


def test_errors_name_the_argument():
    batch = hidden, weight, _, targets, old, advantages, mask = make_batch()
    rows = (targets, old, advantages, mask)
    ref = {"ref_hidden": hidden, "ref_weight": weight}

    def call(*inputs, **options):
        return lambda: rk.linear_ppo_loss(*inputs, **{"cliprange": CLIP, **options})

    for match, broken in {
        r"'old_logprobs' must have shape \[45\]": call(
            hidden, weight, targets, old[:3], advantages, mask
        ),
        "'old_logprobs' must be float32, got bfloat16": call(
            hidden, weight, targets, old.bfloat16(), advantages, mask
        ),
        "'ref_weight' is missing": call(hidden, weight, *rows, ref_hidden=hidden),
        r"'ref_weight' must have 131 rows, got \[130, 16\]": call(
            hidden, weight, *rows, ref_hidden=hidden, ref_weight=weight[1:]
        ),
        "'ref_hidden' must have 45 rows": call(
            hidden, weight, *rows, ref_hidden=hidden[1:], ref_weight=weight
        ),
        "'ref_logits' and 'ref_logprobs' exclude": call(
            hidden, weight, *rows, ref_logprobs=old, **ref
        ),
        "'kl_coef' is not 0, so pass": call(hidden, weight, *rows, kl_coef=0.1),
        "'cliprange' must be": call(hidden, weight, *rows, cliprange=-1.0),
        "'denominator' must be": call(hidden, weight, *rows, denominator=0.0),
        "pass at least 2048": call(hidden, weight, *rows, chunk_bytes=1024, **ref),
    }.items():
        with pytest.raises(ValueError, match="^linear_ppo_loss: argument.* " + match):
            broken()
    assert len(batch) == 7

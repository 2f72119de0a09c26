"""advantages against float64 and against the two ops that it joins; its masks, its contract."""

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.reference.advantages import advantages as reference
from tests.ops.helpers import DTYPES, make_tokens, poison, result_dtype
from tests.tolerances import FLOOR_NATS, assert_near_truth

OP = torch.ops.rlhf_kernels.advantages.default
SHAPES = [(3, 1), (5, 7), (4, 64), (3, 0), (0, 5), (70, 501)]
OPTIONS = {"kl_coef": 0.1, "gamma": 0.99, "lam": 0.95}


def make_inputs(*shape, dtype=torch.float32):
    """Scores, log-probs of both models, values, mask."""
    *tokens, mask = make_tokens(*shape, count=3, dtype=dtype, seed=1, kept=0.8)
    scores, _ = make_tokens(shape[0], count=1, dtype=dtype, seed=2)
    return scores, *tokens, mask


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_advantages_returns_and_rewards_match_float64(shape, dtype, whiten, estimator):
    inputs = make_inputs(*shape, dtype=dtype)
    options = {**OPTIONS, "whiten": whiten, "estimator": estimator}
    truth = reference(*inputs, **options)
    for actual, expected in zip(rk.advantages(*inputs, **options), truth, strict=True):
        assert actual.dtype == result_dtype(dtype)
        scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
        assert_near_truth(actual, expected, floor=FLOOR_NATS * scale)


@pytest.mark.parametrize("whiten", [False, True])
def test_it_has_the_bits_of_the_two_ops_on_the_cpu(whiten):
    scores, logprobs, ref, values, mask = make_inputs(9, 33)
    got = rk.advantages(scores, logprobs, ref, values, mask, **OPTIONS, whiten=whiten)
    rewards = rk.shaped_rewards(scores, logprobs, ref, mask, kl_coef=OPTIONS["kl_coef"])
    two = rk.gae(rewards, values, mask, gamma=0.99, lam=0.95, whiten=whiten)
    assert all(torch.equal(a, b) for a, b in zip(got, (*two, rewards), strict=True))


def test_masked_tokens_are_never_read():
    scores, *tokens, mask = make_inputs(8, 33)
    mask[3] = False
    scores[3] = float("nan")
    clean = rk.advantages(scores, *tokens, mask, **OPTIONS)
    dirty = rk.advantages(scores, *(poison(x, mask) for x in tokens), mask, **OPTIONS)
    assert all(torch.equal(a, b) for a, b in zip(clean, dirty, strict=True))
    assert all((result[3] == 0).all() for result in clean)


def test_errors_name_the_argument():
    scores, logprobs, ref, values, mask = make_inputs(2, 3)
    for arguments, options, message in [
        ((scores, logprobs[0], ref[0], values[0], mask[0]), {}, "'logprobs' must have two"),
        ((scores[:1], logprobs, ref, values, mask), {}, "'scores' must have shape"),
        ((scores, logprobs, ref, values[:, :2], mask), {}, "'values' must have the shape"),
        ((scores, logprobs, ref, values, mask.float()), {}, "'mask' must be bool"),
        ((scores, logprobs, ref, values, mask), {"gamma": 1.1}, "'gamma' must be between"),
        ((scores, logprobs, ref, values, mask), {"kl_coef": -1.0}, "'kl_coef' must be finite"),
        ((scores, logprobs, ref, values, mask), {"estimator": "k4"}, "'estimator' must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            rk.advantages(*arguments, **{**OPTIONS, **options})


def test_opcheck():
    torch.library.opcheck(OP, (*make_inputs(3, 5), 0.1, "k1", 1.0, 0.95, True))


def test_compiles_without_graph_breaks():
    inputs = make_inputs(4, 9)
    compiled = torch.compile(
        lambda *args: rk.advantages(*args, **OPTIONS, whiten=True),
        fullgraph=True,
        backend="aot_eager",
    )
    expected = rk.advantages(*inputs, **OPTIONS, whiten=True)
    assert all(torch.equal(a, b) for a, b in zip(compiled(*inputs), expected, strict=True))

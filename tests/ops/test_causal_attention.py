"""causal_attention against float64, its gradient, its contract and its identity in PyTorch."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import rlhf_kernels as rk
from rlhf_kernels.reference.causal_attention import causal_attention as reference
from tests.ops.helpers import both_passes
from tests.ops.logits import DTYPES, isa, with_threads
from tests.tolerances import FLOOR_STORAGE, max_error

__all__ = ["isa"]

#: B, H, G, L, D, E: one position; below, at and past a tile of 6 and a vector of 16; about a panel
#: of 48; several panels; heads that share keys; features of one, odd, different, whole vectors.
SHAPES = [
    (2, 3, 3, 1, 5, 3),
    (2, 2, 1, 2, 1, 7),
    (1, 4, 2, 5, 32, 32),
    (2, 3, 1, 6, 8, 16),
    (1, 2, 2, 7, 17, 1),
    (3, 4, 4, 11, 32, 32),
    (1, 6, 2, 16, 16, 33),
    (1, 2, 1, 17, 31, 20),
    (1, 2, 2, 47, 24, 8),
    (1, 2, 1, 48, 9, 64),
    (1, 3, 1, 49, 64, 9),
    (1, 2, 2, 97, 40, 24),
    (1, 4, 2, 130, 16, 16),
]


def make_states(shape, dtype=torch.float32, seed=0, scale=1.0):
    """Queries, keys, values as a model's layers make them, and an upstream gradient."""
    batch, heads, groups, length, size, value_size = shape
    draw = torch.Generator().manual_seed(seed)

    def normal(*sizes):
        return (scale * torch.randn(sizes, generator=draw, dtype=torch.float64)).to(dtype)

    sizes = ((heads, size), (groups, size), (groups, value_size))
    states = [normal(batch, length, *each).transpose(1, 2) for each in sizes]
    return states, normal(batch, length, heads, value_size)


def torchs(query, key, value):
    attended = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    return attended.transpose(1, 2)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_both_passes_match_float64(isa, dtype, shape):
    states, upstream = make_states(shape, dtype)
    got = both_passes(rk.causal_attention, states, upstream)
    want = both_passes(reference, [x.double() for x in states], upstream.double())
    near = both_passes(torchs, [x.to(torch.float32) for x in states], upstream.to(torch.float32))
    assert got[0].is_contiguous()
    for ours, truth, theirs in zip(got, want, near, strict=True):
        assert ours.dtype == dtype
        largest = truth.abs().max().item()
        allowed = FLOOR_STORAGE[dtype] * largest
        if dtype != torch.float64:
            allowed += 2 * max_error(theirs, truth)
        assert max_error(ours, truth) <= allowed


def test_a_scale_is_that_of_the_scores(isa):
    states, _ = make_states((1, 2, 1, 9, 4, 4), torch.float64)
    for scale in (0.0, -1.5, 3.0):
        got = rk.causal_attention(*states, scale=scale)
        torch.testing.assert_close(got, reference(*states, scale=scale), rtol=0, atol=1e-14)


def test_large_scores_stay_finite_and_share_out_all(isa):
    (q, k, v), upstream = make_states((2, 2, 2, 37, 8, 8), scale=100.0)
    for passed in both_passes(rk.causal_attention, (q, k, v), upstream):
        assert passed.isfinite().all()
    whole = rk.causal_attention(q, k, torch.ones_like(v))
    torch.testing.assert_close(whole, torch.ones_like(whole), rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spoilt", [0, 1, 2, 3])
def test_nothing_that_a_later_position_holds_reaches_an_earlier_one(isa, dtype, spoilt):
    """Queries, keys, values or a gradient; in the same tile of positions too."""
    states, upstream = make_states((2, 4, 2, 23, 20, 20), dtype)
    clean = both_passes(rk.causal_attention, states, upstream)
    for first in (1, 5, 6, 9, 16, 22):
        for bad in (torch.nan, torch.inf, -torch.inf):
            dirty = [*(x.clone() for x in states), upstream.clone()]
            dirty[spoilt].transpose(1, 2 if spoilt < 3 else 1)[:, first:] = bad
            out, grad_query, *_ = both_passes(rk.causal_attention, dirty[:3], dirty[3])
            assert torch.equal(out[:, :first], clean[0][:, :first])
            assert torch.equal(grad_query[:, :, :first], clean[1][:, :, :first])
            assert spoilt == 3 or not out[:, first:].isfinite().any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 3e38])
def test_a_query_without_a_distribution_spoils_its_own_row_alone(isa, bad):
    """And the gradients of the keys and values that it saw, not of those after it.

    The last is a number, but its scores are none.
    """
    states, upstream = make_states((1, 2, 1, 23, 20, 20))
    clean = both_passes(rk.causal_attention, states, upstream)
    states[0][0, 1, 8] = bad
    out, grad_query, grad_key, grad_value = both_passes(rk.causal_attention, states, upstream)
    others = [i for i in range(23) if i != 8]
    assert out[0, 8, 1].isnan().all()
    assert torch.equal(out[:, others], clean[0][:, others])
    assert torch.equal(out[:, :, 0], clean[0][:, :, 0])
    assert grad_query[0, 1, 8].isnan().all()
    assert torch.equal(grad_query[:, :, others], clean[1][:, :, others])
    for grad, before in ((grad_key, clean[2]), (grad_value, clean[3])):
        assert grad[:, :, :9].isnan().all()
        assert torch.equal(grad[:, :, 9:], before[:, :, 9:])


def test_a_gradient_that_is_no_number_spoils_what_its_query_saw_alone(isa):
    states, upstream = make_states((1, 2, 1, 23, 20, 20))
    clean = both_passes(rk.causal_attention, states, upstream)
    upstream[0, 8] = torch.nan
    _, grad_query, grad_key, grad_value = both_passes(rk.causal_attention, states, upstream)
    others = [i for i in range(23) if i != 8]
    assert torch.equal(grad_query[:, :, others], clean[1][:, :, others])
    assert torch.equal(grad_key[:, :, 9:], clean[2][:, :, 9:])
    assert torch.equal(grad_value[:, :, 9:], clean[3][:, :, 9:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sequence_does_not_depend_on_the_batch_or_the_threads(isa, dtype):
    states, upstream = make_states((40, 4, 2, 50, 16, 16), dtype)
    got = with_threads(1, lambda: both_passes(rk.causal_attention, states, upstream))
    again = with_threads(3, lambda: both_passes(rk.causal_attention, states, upstream))
    assert same(got, again)
    for part in (slice(0, 1), slice(17, 20)):
        alone = both_passes(rk.causal_attention, [x[part] for x in states], upstream[part])
        assert same(alone, [x[part] for x in got])


def test_a_position_does_not_depend_on_those_after_it(isa):
    states, _ = make_states((2, 4, 2, 130, 16, 16))
    whole = rk.causal_attention(*states)
    for length in (1, 5, 6, 7, 16, 48, 49, 129):
        start = rk.causal_attention(*(x[:, :, :length] for x in states))
        assert torch.equal(start, whole[:, :length])


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_inputs_equal_dense_ones(dtype):
    """Packed in one product's rows, heads before positions, expanded, features apart."""
    draw = torch.Generator().manual_seed(0)
    packed = torch.randn(3, 19, (4 + 2 + 2) * 8, generator=draw).to(dtype)
    upstream = torch.randn(3, 19, 4, 8, generator=draw).to(dtype)
    parts = packed.split([32, 16, 16], dim=-1)
    states = [x.unflatten(-1, (-1, 8)).transpose(1, 2) for x in parts]
    dense = [x.contiguous() for x in states]
    want = both_passes(rk.causal_attention, dense, upstream)
    assert same(both_passes(rk.causal_attention, states, upstream), want)
    apart = [x.transpose(2, 3).contiguous().transpose(2, 3) for x in dense]
    assert same(both_passes(rk.causal_attention, apart, upstream), want)
    turned = upstream.transpose(1, 2).contiguous().transpose(1, 2)
    assert same(both_passes(rk.causal_attention, dense, turned), want)
    shared = [dense[0], *(x[:, :1].expand(3, 2, 19, 8) for x in dense[1:])]
    copied = [dense[0], *(x.contiguous() for x in shared[1:])]
    assert same(
        both_passes(rk.causal_attention, shared, upstream),
        both_passes(rk.causal_attention, copied, upstream),
    )


def test_shared_keys_get_the_sum_of_their_heads_gradients(isa):
    states, upstream = make_states((2, 6, 2, 21, 12, 10), torch.float64)
    got = both_passes(rk.causal_attention, states, upstream)
    spread = [states[0], *(x.repeat_interleave(3, dim=1) for x in states[1:])]
    want = both_passes(rk.causal_attention, spread, upstream)
    want[2:] = [x.unflatten(1, (2, 3)).sum(2) for x in want[2:]]
    for ours, truth in zip(got, want, strict=True):
        torch.testing.assert_close(ours, truth, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(0, 2, 1, 3, 4, 4), (2, 2, 1, 0, 4, 4), (2, 2, 1, 3, 4, 0)])
def test_nothing_gives_nothing(shape):
    states, upstream = make_states(shape)
    got = both_passes(rk.causal_attention, states, upstream)
    assert [x.shape for x in got] == [upstream.shape, *(x.shape for x in states)]
    assert all(not x.any() for x in got)


def test_errors_name_the_argument():
    (q, k, v), upstream = make_states((1, 4, 2, 3, 8, 6))
    for match, call in {
        "'query' must be float32": (q.int(), k, v),
        "'query' must be \\[batch, heads, positions, features\\], got \\[\\]": (q.sum(), k, v),
        "'query' must have features": (q[..., :0], k, v),
        "'query' must have heads": (q[:, :0], k, v),
        "'key' must be float32, got bfloat16": (q, k.bfloat16(), v),
        "'key' must have a number of heads that divides the query's 4, got 3": (q, q[:, :3], v),
        "'key' must have shape \\[1, 2, 3, 8\\], got \\[1, 2, 2, 8\\]": (q, k[:, :, 1:], v),
        "'value' must have shape \\[1, 2, 3, 6\\], got \\[1, 4, 3, 6\\]": (q, k, q[..., :6]),
    }.items():
        with pytest.raises(ValueError, match=match):
            rk.causal_attention(*call)
    with pytest.raises(ValueError, match="'scale' must be finite"):
        rk.causal_attention(q, k, v, scale=torch.inf)
    with pytest.raises(ValueError, match="'grad_out' must be float32"):
        torch.ops.rlhf_kernels.causal_attention_backward(upstream.double(), q, k, v, 1.0)
    with pytest.raises(ValueError, match="'grad_out' must have shape \\[1, 3, 4, 6\\]"):
        torch.ops.rlhf_kernels.causal_attention_backward(q, q, k, v, 1.0)


def test_opcheck_and_gradcheck():
    states, upstream = make_states((2, 2, 1, 8, 3, 5), torch.float64)
    states = [x.requires_grad_() for x in states]
    ops = torch.ops.rlhf_kernels
    torch.library.opcheck(ops.causal_attention.default, (*states, 0.3))
    plain = [x.detach() for x in states]
    torch.library.opcheck(ops.causal_attention_backward.default, (upstream, *plain, 0.3))
    assert torch.autograd.gradcheck(rk.causal_attention, states)


def test_second_derivative_is_refused():
    states, _ = make_states((1, 2, 2, 3, 4, 4))
    states = [x.requires_grad_() for x in states]
    grads = torch.autograd.grad(rk.causal_attention(*states).sum(), states, create_graph=True)
    with pytest.raises(RuntimeError, match="no derivative"):
        sum(x.sum() for x in grads).backward()


def test_compiles_without_graph_breaks():
    states, upstream = make_states((2, 4, 2, 11, 8, 8))

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(query, key, value):
        return rk.causal_attention(query, key, value)

    want = both_passes(rk.causal_attention, states, upstream)
    assert same(both_passes(compiled, states, upstream), want)


def test_only_the_inputs_are_kept_for_the_gradient():
    """Nothing of size L^2."""
    states, _ = make_states((1, 4, 2, 33, 8, 8))
    states = [x.requires_grad_() for x in states]
    kept = rk.causal_attention(*states).grad_fn.saved_tensors
    assert [x.data_ptr() for x in kept] == [x.data_ptr() for x in states]


def test_on_another_device_it_is_torchs():
    """Ours would refuse a tensor without memory."""
    q, k = (torch.empty(2, heads, 5, 8, device="meta") for heads in (4, 2))
    assert rk.causal_attention(q, k, k).shape == (2, 5, 4, 8)
    assert rk.causal_attention(q, k, k).device.type == "meta"
    with pytest.raises(RuntimeError, match="meta"):
        rk._registry._C.causal_attention(q, k, k, 1.0, q)

"""feed_forward: what it refuses, what it leaves to torch, and its identity in PyTorch."""

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.reference.feed_forward import feed_forward as reference
from tests.ops.helpers import both_passes
from tests.ops.logits import isa
from tests.ops.sublayer import kept_for_gradient, make_inputs, same, turned, wrong_weights
from tests.ops.test_feed_forward import make_layer, torchs, true_passes
from tests.tolerances import FLOOR_STORAGE, max_error

__all__ = ["isa"]

NAMES = ("norm_weight", "norm_bias", "up_weight", "up_bias", "down_weight", "down_bias")
ops = torch.ops.rlhf_kernels


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_weight_is_refused_by_name(name):
    inputs, _ = make_layer(5, 32, 48)
    place = 1 + NAMES.index(name)
    for problem, wrong in wrong_weights(inputs[place]):
        with pytest.raises(ValueError, match=f"argument '{name}' must {problem}"):
            rk.feed_forward(*inputs[:place], wrong, *inputs[place + 1 :])


def test_hidden_states_of_another_width_are_refused():
    inputs, _ = make_layer(5, 32, 48)
    with pytest.raises(ValueError, match="'norm_weight' must have shape \\[48\\], got \\[32\\]"):
        rk.feed_forward(torch.zeros(5, 48), *inputs[1:])


@pytest.mark.parametrize("eps", [-1e-5, torch.nan, torch.inf])
def test_an_eps_that_is_no_small_number_is_refused(eps):
    inputs, _ = make_layer(5, 32, 48)
    with pytest.raises(ValueError, match="'eps' must be in \\[0, 1\\]"):
        rk.feed_forward(*inputs, eps=eps)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (torch.tensor([0, 5]), "name rows of 'hidden', each once; entry 1 is 5 of 5 rows"),
        (torch.tensor([-1]), "name rows of 'hidden', each once; entry 0 is -1 of 5 rows"),
        (torch.tensor([3, 1, 3]), "name rows of 'hidden', each once; entry 2 is 3 of 5 rows"),
        (torch.tensor([0, 1], dtype=torch.int32), "be int64, got int32"),
        (torch.tensor([True, False]), "be int64, got bool"),
        (torch.tensor([[0, 1]]), "be \\[N\\], got \\[1, 2\\]"),
        (torch.tensor(1), "be \\[N\\], got \\[\\]"),
    ],
)
def test_wrong_rows_are_refused(rows, problem):
    inputs, _ = make_layer(5, 32, 48)
    with pytest.raises(ValueError, match=f"argument 'rows' must {problem}"):
        rk.feed_forward(*inputs, rows=rows)


def test_rows_that_are_not_dense_equal_dense_ones():
    inputs, _ = make_layer(9, 32, 48)
    rows = torch.tensor([7, 0, 2, 0, 4])
    assert torch.equal(
        rk.feed_forward(*inputs, rows=rows[::2]),
        rk.feed_forward(*inputs, rows=torch.tensor([7, 2, 4])),
    )


def test_the_gradients_own_arguments_are_refused_by_name():
    (inputs, upstream), numbers = make_layer(5, 32, 48), (1e-5, False)
    inner = ops.feed_forward(inputs[0], None, *inputs[1:], *numbers)[1]
    for name, given in {
        "'grad_out' must have the dtype": (upstream.double(), inner),
        "'grad_out' must have the shape": (upstream[1:], inner),
        "'inner' must": (upstream, inner[:, 1:].contiguous()),
        "argument 'inner' must": (upstream, inner.double()),
    }.items():
        with pytest.raises(ValueError, match=name):
            ops.feed_forward_backward(*given, inputs[0], None, *inputs[1:], *numbers)


def refuse(*arguments):
    raise AssertionError("the kernel was called")


@pytest.mark.parametrize("chosen", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_floats_are_torchs(monkeypatch, dtype, chosen):
    monkeypatch.setattr("rlhf_kernels.ops.feed_forward._forward", refuse)
    inputs, upstream = make_layer(20, 48, 80, dtype)
    rows = torch.tensor([3, 19, 0]) if chosen else None
    got = both_passes(lambda *leaves: rk.feed_forward(*leaves, rows=rows), inputs, upstream)
    want = true_passes(lambda *leaves: reference(*leaves, rows=rows), inputs, upstream)
    for ours, truth in zip(got, want, strict=True):
        assert ours.dtype == dtype
        assert max_error(ours, truth) <= 4 * FLOOR_STORAGE[dtype] * truth.abs().max().item()


@pytest.mark.parametrize("chosen", [False, True])
@pytest.mark.parametrize(("width", "inner"), [(24, 48), (32, 50), (5, 3)])
def test_widths_that_are_no_multiple_of_16_are_torchs(monkeypatch, width, inner, chosen):
    monkeypatch.setattr("rlhf_kernels.ops.feed_forward._forward", refuse)
    rows = torch.tensor([3, 19, 0]) if chosen else None
    inputs, upstream = make_layer(20, width, inner, torch.float64)
    inputs[0], upstream = inputs[0].view(4, 5, width), upstream.view(4, 5, width)
    got = both_passes(
        lambda *leaves: rk.feed_forward(*leaves, eps=0.1, rows=rows), inputs, upstream
    )
    want = both_passes(lambda *leaves: reference(*leaves, eps=0.1, rows=rows), inputs, upstream)
    for ours, truth in zip(got, want, strict=True):
        torch.testing.assert_close(ours, truth, rtol=0, atol=1e-12)


@pytest.mark.parametrize("chosen", [False, True])
def test_opcheck(chosen):
    (hidden, *weights), upstream = make_layer(7, 16, 64, torch.float64)
    rows = torch.tensor([5, 0]) if chosen else None
    inner = ops.feed_forward(hidden, rows, *weights, 1e-5, False)[1]
    backward = (upstream, inner, hidden, rows, *weights, 1e-5, False)
    torch.library.opcheck(ops.feed_forward_backward.default, backward)
    leaves = [x.requires_grad_() for x in (hidden, *weights)]
    torch.library.opcheck(ops.feed_forward.default, (leaves[0], rows, *leaves[1:], 1e-5, False))


def test_opcheck_of_weights_that_lie_turned():
    inputs, upstream = make_layer(7, 16, 64, torch.float64)
    hidden, *weights = turned(inputs)
    inner = ops.feed_forward(hidden, None, *weights, 1e-5, False)[1]
    torch.library.opcheck(
        ops.feed_forward_backward.default, (upstream, inner, hidden, None, *weights, 1e-5, False)
    )


@pytest.mark.parametrize("chosen", [False, True])
def test_gradcheck(isa, chosen):
    rows = torch.tensor([2, 0]) if chosen else None
    inputs, _ = make_inputs((3, 16), [(16, 32), (32, 16)], torch.float64)
    leaves = [x.requires_grad_() for x in turned(inputs)]
    assert torch.autograd.gradcheck(lambda *x: rk.feed_forward(*x, rows=rows), leaves)


def test_second_derivative_is_refused():
    inputs, _ = make_layer(3, 16, 16)
    leaves = [x.requires_grad_() for x in inputs]
    grads = torch.autograd.grad(rk.feed_forward(*leaves).sum(), leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="no derivative"):
        sum(x.sum() for x in grads).backward()


@pytest.mark.parametrize("lay", [list, turned])
@pytest.mark.parametrize("chosen", [False, True])
def test_compiles_without_graph_breaks(lay, chosen):
    inputs, upstream = make_layer(12, 32, 80)
    inputs[0], upstream = inputs[0].view(3, 4, 32), upstream.view(3, 4, 32)
    inputs = lay(inputs)
    rows = torch.tensor([5, 0, 11]) if chosen else None

    def call(*leaves):
        return rk.feed_forward(*leaves, rows=rows)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    want = both_passes(call, inputs, upstream)
    assert same(both_passes(compiled, inputs, upstream), want)


@pytest.mark.parametrize("chosen", [False, True])
def test_only_the_inputs_and_what_the_activation_takes_are_kept(chosen):
    inputs, _ = make_layer(33, 32, 80)
    leaves = [x.requires_grad_() for x in inputs]
    rows = torch.arange(9) if chosen else None
    kept = kept_for_gradient(lambda: rk.feed_forward(*leaves, rows=rows))
    given = leaves if rows is None else [leaves[0], rows, *leaves[1:]]
    assert [x.data_ptr() for x in kept[:-1]] == [x.data_ptr() for x in given]
    assert kept[-1].shape == (2, 9 if chosen else 33, 64)


def test_inputs_without_a_gradient_get_none():
    inputs, upstream = make_layer(9, 32, 48)
    want = both_passes(rk.feed_forward, inputs, upstream)
    weight = inputs[3].clone().requires_grad_()
    rk.feed_forward(*inputs[:3], weight, *inputs[4:]).backward(upstream)
    assert torch.equal(weight.grad, want[4])
    assert all(x.grad is None for x in inputs)


def test_on_the_meta_device_it_has_shapes():
    inputs, _ = make_layer(6, 32, 48)
    for sizes in ((6, 32), (2, 3, 32)):
        for rows in (None, torch.empty(2, dtype=torch.int64, device="meta")):
            hidden, *weights = (x.to("meta") for x in (inputs[0].view(sizes), *inputs[1:]))
            out = rk.feed_forward(hidden, *weights, rows=rows)
            assert out.shape == sizes
            assert out.device.type == "meta"
            assert out.dtype == torch.float32


def test_torchs_operators_are_the_formula():
    """What the bounds of the other tests come from."""
    inputs, _ = make_layer(9, 32, 48, torch.float64)
    torch.testing.assert_close(torchs(*inputs), reference(*inputs), rtol=0, atol=1e-12)

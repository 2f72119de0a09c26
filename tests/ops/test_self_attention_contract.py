"""self_attention: what it refuses, what it leaves to torch, and its identity in PyTorch."""

import pytest
import torch

import rlhf_kernels as rk
from tests.ops.helpers import both_passes
from tests.ops.logits import isa
from tests.ops.sublayer import kept_for_gradient, same, turned, wrong_weights
from tests.ops.test_self_attention import attend, make_layer, torchs, true_passes, truth
from tests.tolerances import FLOOR_STORAGE, max_error

__all__ = ["isa"]

NAMES = ("norm_weight", "norm_bias", "in_weight", "in_bias", "out_weight", "out_bias")
ops = torch.ops.rlhf_kernels


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_weight_is_refused_by_name(name):
    inputs, _ = make_layer(2, 5, 32)
    place = 1 + NAMES.index(name)
    for problem, wrong in wrong_weights(inputs[place]):
        with pytest.raises(ValueError, match=f"argument '{name}' must {problem}"):
            rk.self_attention(*inputs[:place], wrong, *inputs[place + 1 :], heads=2)


def test_wrong_hidden_states_are_refused():
    inputs, _ = make_layer(2, 5, 32)
    for wrong, problem in (
        (inputs[0][0], "'hidden' must have 3 dimensions, got \\[5, 32\\]"),
        (inputs[0][None], "'hidden' must have 3 dimensions, got \\[1, 2, 5, 32\\]"),
        (inputs[0][0, 0], "'hidden' must have 3 dimensions, got \\[32\\]"),
        (torch.zeros(2, 5, 48), "'norm_weight' must have shape \\[48\\], got \\[32\\]"),
    ):
        with pytest.raises(ValueError, match=problem):
            rk.self_attention(wrong, *inputs[1:], heads=2)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"heads": 3}, "'heads' must divide the 32 columns of 'hidden', got 3"),
        ({"heads": 0}, "'heads' must divide"),
        ({"heads": -2}, "'heads' must divide"),
        ({"heads": 64}, "'heads' must divide"),
        ({"heads": 2, "scale": torch.nan}, "'scale' must be finite"),
        ({"heads": 2, "scale": torch.inf}, "'scale' must be finite"),
        ({"heads": 2, "eps": -1e-5}, "'eps' must be in \\[0, 1\\]"),
        ({"heads": 2, "eps": torch.nan}, "'eps' must be in \\[0, 1\\]"),
    ],
)
def test_a_wrong_number_is_refused_by_name(settings, problem):
    inputs, _ = make_layer(2, 5, 32)
    with pytest.raises(ValueError, match=problem):
        rk.self_attention(*inputs, **settings)


def test_the_gradients_own_arguments_are_refused_by_name():
    inputs, upstream = make_layer(2, 5, 32)
    numbers = (2, 0.25, 1e-5, False)
    _, states, attended = ops.self_attention(*inputs, *numbers)
    for match, given in {
        "'grad_out' must have the dtype": (upstream.double(), states, attended),
        "'grad_out' must have the shape": (upstream[1:], states, attended),
        "'states' must": (upstream, states[1:], attended),
        "argument 'states' must": (upstream, states.double(), attended),
        "'attended' must": (upstream, states, attended[1:]),
        "argument 'attended' must": (upstream, states, attended.double()),
    }.items():
        with pytest.raises(ValueError, match=match):
            ops.self_attention_backward(*given, *inputs, *numbers)


@pytest.mark.parametrize("sizes", [(0, 3), (2, 0), (0, 0)])
def test_without_positions_weights_have_no_gradient(sizes):
    inputs, upstream = make_layer(*sizes, 48)
    got = both_passes(attend(3), inputs, upstream)
    assert [x.shape for x in got] == [upstream.shape, *(x.shape for x in inputs)]
    assert all(not x.any() for x in got)


def refuse(*arguments):
    raise AssertionError("the kernel was called")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_floats_are_torchs(monkeypatch, dtype):
    monkeypatch.setattr("rlhf_kernels.ops.self_attention._forward", refuse)
    inputs, upstream = make_layer(4, 11, 48, dtype)
    got = both_passes(attend(3), inputs, upstream)
    want = true_passes(truth(3), inputs, upstream)
    for ours, right in zip(got, want, strict=True):
        assert ours.dtype == dtype
        assert max_error(ours, right) <= 4 * FLOOR_STORAGE[dtype] * right.abs().max().item()


@pytest.mark.parametrize(("width", "heads"), [(24, 3), (50, 2), (5, 1)])
def test_widths_that_are_no_multiple_of_16_are_torchs(monkeypatch, width, heads):
    monkeypatch.setattr("rlhf_kernels.ops.self_attention._forward", refuse)
    inputs, upstream = make_layer(3, 7, width, torch.float64)
    got = both_passes(attend(heads, scale=0.7, eps=0.1), inputs, upstream)
    want = both_passes(truth(heads, scale=0.7, eps=0.1), inputs, upstream)
    for ours, right in zip(got, want, strict=True):
        torch.testing.assert_close(ours, right, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lay", [list, turned])
def test_opcheck(lay):
    inputs, upstream = make_layer(2, 7, 16, torch.float64)
    inputs, numbers = lay(inputs), (2, 0.3, 1e-5, False)
    _, states, attended = ops.self_attention(*inputs, *numbers)
    backward = (upstream, states, attended, *inputs, *numbers)
    torch.library.opcheck(ops.self_attention_backward.default, backward)
    leaves = [x.detach().requires_grad_() for x in inputs]
    torch.library.opcheck(ops.self_attention.default, (*leaves, *numbers))


def test_gradcheck(isa):
    inputs, _ = make_layer(2, 3, 16, torch.float64)
    leaves = [x.requires_grad_() for x in turned(inputs)]
    assert torch.autograd.gradcheck(attend(2), leaves)


def test_second_derivative_is_refused():
    inputs, _ = make_layer(1, 3, 16)
    leaves = [x.requires_grad_() for x in inputs]
    grads = torch.autograd.grad(attend(2)(*leaves).sum(), leaves, create_graph=True)
    with pytest.raises(RuntimeError, match="no derivative"):
        sum(x.sum() for x in grads).backward()


@pytest.mark.parametrize("lay", [list, turned])
def test_compiles_without_graph_breaks(lay):
    inputs, upstream = make_layer(3, 4, 80)
    inputs = lay(inputs)
    compiled = torch.compile(attend(5), fullgraph=True, backend="aot_eager")
    want = both_passes(attend(5), inputs, upstream)
    assert same(both_passes(compiled, inputs, upstream), want)


def test_only_the_inputs_and_what_rows_gave_are_kept():
    """Nothing of size L^2."""
    inputs, _ = make_layer(2, 331, 32)
    leaves = [x.requires_grad_() for x in inputs]
    *given, states, attended = kept_for_gradient(lambda: attend(2)(*leaves))
    assert [x.data_ptr() for x in given] == [x.data_ptr() for x in leaves]
    assert states.shape == (2, 331, 96)
    assert attended.shape == (2, 331, 32)


def test_inputs_without_a_gradient_get_none():
    inputs, upstream = make_layer(2, 5, 32)
    want = both_passes(attend(2), inputs, upstream)
    weight = inputs[3].clone().requires_grad_()
    rk.self_attention(*inputs[:3], weight, *inputs[4:], heads=2).backward(upstream)
    assert torch.equal(weight.grad, want[4])
    assert all(x.grad is None for x in inputs)


def test_on_the_meta_device_it_has_shapes():
    inputs, _ = make_layer(2, 5, 32)
    out = rk.self_attention(*(x.to("meta") for x in inputs), heads=2)
    assert out.shape == (2, 5, 32)
    assert out.device.type == "meta"
    assert out.dtype == torch.float32


def test_torchs_operators_are_the_formula():
    """What the bounds of the other tests come from."""
    inputs, _ = make_layer(2, 9, 32, torch.float64)
    got, want = torchs(4, scale=0.3)(*inputs), truth(4, scale=0.3)(*inputs)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)

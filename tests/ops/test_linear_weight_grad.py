"""The weight's gradient of the linear losses added to a tensor of the caller's."""

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.ops._linear import Chunks, Head, plan_chunks
from rlhf_kernels.ops._linear_gradients import spared_bytes
from tests.ops.linear import ROWS, chunk_bytes, leaves, make_inputs, make_policy

CLIP = 0.2


def run(op, hidden, weight, bias, targets, mask, **options):
    """The op's loss and statistics, whichever op it is."""
    if op == "linear_cross_entropy":
        return rk.linear_cross_entropy(hidden, weight, targets, bias=bias, mask=mask, **options)
    old, advantages = make_policy(hidden.detach().float(), weight.detach().float(), targets)
    if hidden.dtype == torch.float64:
        old, advantages = old.double(), advantages.double()
    rows = (targets, old, advantages, mask)
    return rk.linear_ppo_loss(hidden, weight, *rows, cliprange=CLIP, bias=bias, **options)


OPS = ["linear_cross_entropy", "linear_ppo_loss"]


def plan(rows, dim, dtype, wants, weight_grad=None, device_type="cuda"):
    """The rows of a chunk for tensors that only say where they are."""
    hidden = type("Hidden", (), {"is_cuda": device_type == "cuda", "__len__": lambda _: rows})()
    weight = torch.empty(50257, dim, dtype=dtype, device="meta")
    head = Head(weight=weight, bias=None, softcap=0.0)
    spared = spared_bytes(weight, head, wants, weight_grad)
    return plan_chunks("op", None, hidden, head, None, 1, spared).rows


def test_on_a_gpu_one_chunk_takes_the_place_of_a_float32_sum_that_is_no_smaller():
    wants = [True, True, False]
    assert plan(8190, 4096, torch.bfloat16, wants) == 8192
    assert plan(8193, 4096, torch.bfloat16, wants) == 4096
    assert plan(8190, 4096, torch.float32, wants) == 4096  # its sum is the gradient itself
    assert plan(8190, 4096, torch.bfloat16, [True, False, False]) == 4096
    given = torch.empty(50257, 4096, device="meta")
    assert plan(8190, 4096, torch.bfloat16, [True, False, False], given) == 4096
    assert plan(100, 4096, torch.bfloat16, wants) == 4096
    assert plan(8190, 4096, torch.bfloat16, wants, device_type="cpu") < 4096


def test_what_lies_between_the_rows_of_a_workspace_is_a_number():
    """oneDNN's 16-bit products read it where the CPU has AMX."""
    held = torch.full((1 << 16,), float("nan"), dtype=torch.bfloat16)
    del held  # its memory is likely to be taken next
    head = Head(weight=torch.zeros(131, 16, dtype=torch.bfloat16), bias=None, softcap=0.0)
    (space,) = Chunks(count=45, rows=48, index=None).new_workspaces(head, 1)
    assert space.shape == (45, 131)
    whole = space.as_strided((45, 256), (256, 1))
    assert not whole[:, 131:].any()


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("op", OPS)
def test_it_adds_what_autograd_would_return(op, dtype, rows):
    *head, targets, mask = make_inputs(dtype=dtype)
    budget = chunk_bytes(rows, dtype=dtype)
    plain, ours = leaves(*head), leaves(*head)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    held = torch.randn(head[1].shape, dtype=wide)
    total = held.clone()
    loss, _ = run(op, *plain, targets, mask, chunk_bytes=budget)
    loss.backward()
    twin, _ = run(op, *ours, targets, mask, chunk_bytes=budget, weight_grad=total)
    twin.backward()
    assert torch.equal(loss, twin)
    assert torch.equal(plain[0].grad, ours[0].grad)
    assert torch.equal(plain[2].grad, ours[2].grad)
    assert ours[1].grad is None
    expected = plain[1].grad.to(wide)
    # Roundings of the sums; in bfloat16 the returned gradient is rounded, the added one is not.
    relative = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float64: 1e-14}[dtype]
    assert (total - held - expected).abs().max() <= relative * (held.abs().max() + 1)


@pytest.mark.parametrize("op", OPS)
def test_rows_of_the_weights_own_gradient_collect_micro_batches(op):
    hidden, weight, bias, targets, mask = make_inputs()
    vocab = len(weight) - 2
    targets = targets % vocab
    (leaf,) = leaves(weight)
    leaf.grad = torch.zeros_like(leaf)
    (whole,) = leaves(weight)
    for part in (slice(0, 20), slice(20, None)):
        inputs = (bias[:vocab], targets[part], mask[part])
        options = {"weight_grad": leaf.grad[:vocab], "chunk_bytes": chunk_bytes(8)}
        run(op, *leaves(hidden[part]), leaf[:vocab], *inputs, **options)[0].backward()
        run(op, *leaves(hidden[part]), whole[:vocab], *inputs)[0].backward()
    torch.testing.assert_close(leaf.grad, whole.grad, rtol=1e-5, atol=1e-7)
    assert (leaf.grad[vocab:] == 0).all()


def test_the_backward_pass_takes_upstream_1_only_and_once():
    hidden, weight, _, targets, mask = make_inputs()
    (given,), total = leaves(hidden), torch.zeros_like(weight)
    loss, _ = rk.linear_cross_entropy(given, weight, targets, mask=mask, weight_grad=total)
    with pytest.raises(RuntimeError, match="upstream gradient is 2, but 'weight_grad'"):
        (2.0 * loss).backward()
    loss, _ = rk.linear_cross_entropy(given, weight, targets, mask=mask, weight_grad=total)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_nothing_is_added_without_gradients():
    hidden, weight, _, targets, _ = make_inputs()
    total = torch.zeros_like(weight)
    rk.linear_cross_entropy(hidden, weight, targets, weight_grad=total)
    with torch.no_grad():
        rk.linear_cross_entropy(*leaves(hidden, weight), targets, weight_grad=total)
    assert (total == 0).all()
    assert total._version == 0


def test_a_weight_alone_is_enough_for_a_graph():
    hidden, weight, _, targets, _ = make_inputs()
    (leaf,), total = leaves(weight), torch.zeros_like(weight)
    rk.linear_cross_entropy(hidden, leaf, targets, weight_grad=total)[0].backward()
    assert total.abs().max() > 0
    assert leaf.grad is None


def test_compiles_without_graph_breaks():
    hidden, weight, _, targets, mask = make_inputs()

    def loss(h, total):
        options = {"mask": mask, "weight_grad": total, "chunk_bytes": chunk_bytes(8)}
        return rk.linear_cross_entropy(torch.tanh(h), weight, targets, **options)[0]

    results = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        (given,), total = leaves(hidden), torch.ones_like(weight)
        value = function(given, total)
        value.backward()
        results.append((value, given.grad, total))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert not torch.equal(results[0][2], torch.ones_like(weight))


def test_opcheck():
    hidden, weight, bias, targets, mask = make_inputs(5, 4, 9)
    old, advantages = make_policy(hidden, weight, targets)
    one = torch.tensor(5.0, dtype=torch.float64)
    tensors = (hidden, weight, bias, None, None, targets, old, advantages, mask, *[None] * 4, one)
    options = (None, 1.0, CLIP, 0.0, 0.0, 0.0, "k3", 0.0, None, None, False)
    op = torch.ops.rlhf_kernels.linear_ppo_loss_.default
    total = torch.zeros_like(weight)
    torch.library.opcheck(op, (*tensors, *options, [True, False, True], "linear_ppo_loss", total))
    refuse = torch.ops.rlhf_kernels.linear_refuse_scale_.default
    torch.library.opcheck(refuse, (torch.ones(3, 2), torch.tensor(1.0)))


def test_errors_name_the_argument():
    hidden, weight, _, targets, _ = make_inputs(4, 8, 9)
    for match, total in {
        r"'weight_grad' must have the shape of 'weight', \[9, 8\], got \[8, 8\]": weight[1:],
        "'weight_grad' must be torch.float32, got torch.bfloat16": weight.bfloat16(),
        "'weight_grad' requires a gradient": weight.clone().requires_grad_(),
        "'weight_grad' is on meta": weight.to("meta"),
    }.items():
        with pytest.raises(ValueError, match=match):
            rk.linear_cross_entropy(hidden, weight, targets, weight_grad=total)

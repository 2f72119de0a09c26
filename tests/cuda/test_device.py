"""What only a device can show: streams, graphs, no synchronisation, size, devices, compilation."""

import pytest
import torch

import rlhf_kernels as rk
from tests.cuda.cases import ROWS, TOKENS
from tests.cuda.device import assert_same_bits, copy_to, named
from tests.ops.logits import make_logits, make_targets
from tests.ops.policy import CLIP, make_batch

ALL = TOKENS + [case for case in ROWS if not case.name.startswith("policy")]
ALL += [case for case in ROWS if case.name in ("policy_all", "policy_all_in_place", "policy_k3")]
#: Clock cycles for which a stream is kept busy: about a tenth of a second.
BUSY = 150_000_000


@pytest.fixture(autouse=True)
def needs_a_device(column):
    if column.kind == "emulated":
        pytest.skip("streams, graphs and sizes need a real device")


def size_of(case):
    return (6, 1031) if case in ROWS else 3001


def call(case, inputs):
    """Run forward and backward where the inputs are; return every result and the gradient."""
    leaf = inputs[0].detach().requires_grad_(case.gradient)
    results = case.op(leaf, *inputs[1:], **case.options)
    found = named(results)
    if case.gradient:
        first = results[0] if isinstance(results, tuple) else results
        (grad,) = torch.autograd.grad(first, leaf, torch.full_like(first, 2.0))
        found = {**found, "grad": grad}
    return ({name: value.detach() for name, value in found.items()},)


def place(inputs):
    from tests.cuda.device import Column

    return Column("cuda").place(inputs)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_no_call_waits_for_the_device(case):
    inputs = place(case.inputs(size_of(case), torch.bfloat16))
    call(case, inputs)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call(case, inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_sample_does_not_wait_for_the_device():
    rows = torch.arange(4, device="cuda")
    logits = make_logits(4, 1031).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for options in ({}, {"top_k": 5}, {"top_p": 0.9}):
            rk.sample(logits, 1, rows, rows, **options)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("case", ALL, ids=str)
def test_kernels_run_on_the_current_stream(case):
    inputs = place(case.inputs(size_of(case), torch.float32))
    expected = call(case, inputs)
    late = (torch.full_like(inputs[0], torch.nan), *inputs[1:])
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(BUSY)
        late[0].copy_(inputs[0])  # a kernel on another stream would read the NaN before
        ours = call(case, late)
        assert not side.query(), "the side stream was idle, so this showed nothing"
        assert torch.cuda.default_stream().query(), "something went to the default stream"
    side.synchronize()
    assert_same_bits(ours, expected)


@pytest.mark.parametrize("case", ALL, ids=str)
def test_a_captured_graph_replays_with_other_inputs(case):
    inputs = place(case.inputs(size_of(case), torch.float32))
    other = inputs[0].roll(1, 0)
    expected = call(case, (other, *inputs[1:]))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call(case, inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call(case, inputs)
    inputs[0].copy_(other)
    for _ in range(2):
        graph.replay()
    torch.cuda.synchronize()
    assert_same_bits(captured, expected)


def test_a_captured_graph_reads_changed_denominators_temperatures_and_upstream():
    batch = place(make_batch(6, 1031))
    count = torch.tensor(6.0, dtype=torch.float64, device="cuda")
    heat = torch.full((6,), 0.9, device="cuda")
    weight = torch.tensor(1.0, device="cuda")

    def step():
        leaf = batch[0].detach().requires_grad_()
        loss, _ = rk.ppo_loss_from_logits(
            leaf, *batch[1:], cliprange=CLIP, denominator=count, temperature=heat
        )
        (grad,) = torch.autograd.grad(loss, leaf, weight)
        return loss.detach(), grad

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    before = [t.clone() for t in captured]
    count.fill_(17.0)
    heat.fill_(0.6)
    weight.fill_(-2.0)
    graph.replay()
    torch.cuda.synchronize()
    assert_same_bits(captured, step())
    assert not torch.equal(captured[0], before[0])


def needs_memory(gigabytes):
    free, _ = torch.cuda.mem_get_info()
    if free < gigabytes * 1e9:
        pytest.skip(f"needs {gigabytes} GB of free GPU memory")


@pytest.fixture
def many_logits():
    """16384 x 151936 in bfloat16: 2.5e9 elements, beyond what 32 bits index."""
    needs_memory(16)
    logits = torch.empty(16384, 151936, dtype=torch.bfloat16, device="cuda").normal_(0, 3)
    targets = torch.randint(151936, (16384,), device="cuda")
    yield logits, targets
    del logits
    torch.cuda.empty_cache()


#: The first rows, those around element 2^31, the last.
FAR = [0, 1, 14133, 14134, 14135, 16382, 16383]


def test_more_than_two_to_the_31_logits(many_logits):
    logits, targets = many_logits
    assert logits.numel() > 2**31
    rows = torch.tensor(FAR, device="cuda")
    full = rk.gather_logprobs(logits, targets)
    alone = rk.gather_logprobs(logits[rows], targets[rows])
    assert_same_bits(tuple(t[rows] for t in full), tuple(alone))
    pair = rk.exact_kl(logits, logits)
    assert (pair == 0).all()


def test_more_than_two_to_the_31_gradients_in_place(many_logits):
    logits, targets = many_logits
    n = logits.shape[0]
    mask = torch.ones(n, dtype=torch.bool, device="cuda")
    old, advantages = torch.zeros(n, device="cuda"), torch.randn(n, device="cuda")
    rows = torch.tensor(FAR, device="cuda")
    part = tuple(t[rows] for t in (logits, targets, old, advantages, mask))
    options = {"cliprange": 1e30, "denominator": float(n), "inplace": True}
    rk.ppo_loss_from_logits(part[0], *part[1:], **options)
    rk.ppo_loss_from_logits(logits, targets, old, advantages, mask, **options)
    assert torch.equal(logits[rows], part[0])


@pytest.mark.parametrize("vocab", [3, 33])
def test_more_than_65535_rows(vocab):
    n = 70_000
    logits, targets = make_logits(n, vocab).cuda(), make_targets(n, vocab).cuda()
    full = rk.gather_logprobs(logits, targets)
    tail = slice(65_530, 65_545)
    assert_same_bits(
        tuple(t[tail] for t in full), tuple(rk.gather_logprobs(logits[tail], targets[tail]))
    )
    loss, _ = rk.cross_entropy(logits, targets)
    torch.testing.assert_close(loss, -full.logprobs.double().mean().float(), rtol=1e-6, atol=0.0)


def test_a_forward_pass_holds_no_second_tensor_of_the_logits():
    logits, targets = torch.zeros(256, 50257, device="cuda"), torch.zeros(256, device="cuda").long()
    rk.gather_logprobs(logits, targets)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    rk.gather_logprobs(logits, targets)
    rk.exact_kl(logits, logits)
    rk.ppo_loss_from_logits(
        logits, targets, *torch.zeros(2, 256, device="cuda"), targets == 0, cliprange=0.2,
        inplace=True,
    )  # fmt: skip
    assert torch.cuda.max_memory_allocated() - before < 2**20


def test_the_current_device_stays():
    index = torch.cuda.current_device()
    rk.token_kl(torch.zeros(5, device="cuda"), torch.zeros(5, device="cuda"))
    assert torch.cuda.current_device() == index


def test_tensors_on_the_second_device():
    if torch.cuda.device_count() < 2:
        pytest.skip("this machine has one GPU")
    for case in ALL:
        inputs = case.inputs(size_of(case), torch.float32)
        expected = call(case, place(inputs))
        moved = torch.utils._pytree.tree_map(
            lambda t: copy_to(t, "cuda:1") if isinstance(t, torch.Tensor) else t, inputs
        )
        ours = call(case, moved)
        assert torch.cuda.current_device() == 0
        assert all(value.device.index == 1 for value in ours[0].values())
        assert_same_bits(
            tuple({k: v.cpu() for k, v in part.items()} for part in ours),
            tuple({k: v.cpu() for k, v in part.items()} for part in expected),
        )


def test_tensors_on_two_devices_are_refused_by_name():
    x, targets = make_logits(4, 8).cuda(), make_targets(4, 8)
    y = torch.zeros(4)
    # PyTorch's dispatcher lets a CPU tensor through to the CUDA kernel, which refuses it.
    for match, function in {
        "'targets' is on the CPU": lambda: rk.gather_logprobs(x, targets),
        "'ref_logits' is on the CPU": lambda: rk.exact_kl(x, x.cpu()),
        "'ref_logprobs' is on the CPU": lambda: rk.token_kl(y.cuda(), y),
        "'old_logprobs' is on the CPU": lambda: rk.ppo_loss_from_logits(
            x, targets.cuda(), y, y.cuda(), targets.cuda() >= 0, cliprange=0.2
        ),
        "'mask' is on the CPU": lambda: rk.whiten(y.cuda(), y == 0),
    }.items():
        with pytest.raises(ValueError, match=match):
            function()


@pytest.mark.parametrize("case", ALL, ids=str)
def test_compiles_without_graph_breaks(case):
    torch._dynamo.reset()  # every case is the same code with another closure
    inputs = place(case.inputs(size_of(case), torch.float32))
    expected = call(case, inputs)

    def forward(leaf):
        results = case.op(leaf, *inputs[1:], **case.options)
        return results[0] if isinstance(results, tuple) else results

    leaf = inputs[0].detach().requires_grad_(case.gradient)
    compiled = torch.compile(forward, fullgraph=True, backend="aot_eager")
    first = compiled(leaf)
    assert torch.equal(first.detach(), next(iter(expected[0].values())))
    if case.gradient:
        (grad,) = torch.autograd.grad(first, leaf, torch.full_like(first, 2.0))
        assert torch.equal(grad, expected[0]["grad"])


def test_opcheck_of_the_operators_on_the_device():
    ops = torch.ops.rlhf_kernels
    x = make_logits(4, 33).cuda().requires_grad_()
    targets = make_targets(4, 33).cuda()
    tokens = torch.randn(2, 16, device="cuda")
    mask = tokens[0] > -1
    torch.library.opcheck(ops.gather_logprobs.default, (x, targets, None, None, 1.0))
    torch.library.opcheck(ops.exact_kl.default, (x, x.detach().roll(1, 0), None, None, 1.0))
    torch.library.opcheck(ops.token_kl.default, (tokens[0].requires_grad_(), tokens[1], "k3"))
    torch.library.opcheck(ops.whiten.default, (tokens[1], mask, True))

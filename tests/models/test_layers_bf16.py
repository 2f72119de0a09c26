"""GPT-2's layers under autocast: how near float64, with which processors, and what is torch's."""

import pytest
import torch

from tests.models.fused import HALVES, IDS, close, count_as_amx, make, passes, taken
from tests.models.sampled import PADDED, answer
from tests.models.trunks import ALL, fused, hidden_of, read
from tests.tiny import tiny_model, tiny_text
from toolkit.data.batches import collate
from toolkit.models import layers, whole_pass
from toolkit.models.heads import Policy
from toolkit.models.trunk import lay_out
from toolkit.spec.schema import Hardware

__all__ = ["read", "taken"]

_LIKE = 1.5  # times torch's error; 0.7 to 1.1 were seen
_ROUNDED = 1e-3  # of the norm; fp32 gives 1e-6
OTHERS = ["avx2", "avx512", "avx512bf16"]


def autocast(dtype=torch.bfloat16):
    return torch.autocast("cpu", dtype)


def be(isa, monkeypatch):
    """Have the layers believe the processor is another; kernels compute as this one does."""
    monkeypatch.setattr(layers.rk, "current_isa", lambda: isa)


@pytest.fixture
def amx(monkeypatch):
    count_as_amx(monkeypatch)


def error(ours, exact):
    return float((ours - exact).norm() / exact.norm())


def errors(model, exact, **given):
    """How far hidden states and each gradient are from float64, and all gradients together."""
    with autocast():
        hidden, grads = passes(model, **given)
    each = [error(x, want) for x, want in zip(grads, exact[1], strict=True)]
    together = error(*(torch.cat([x.double().flatten() for x in y]) for y in (grads, exact[1])))
    return error(hidden, exact[0]), each, together


#: One node of the graph for all layers; nodes of their own from a million weights on.
SIZES = [
    ("LayersBackward", {}),
    ("LayersBackward", {"n_embd": 128, "n_head": 4}),
    ("rlhf_kernels_feed_forwardBackward", {"n_embd": 192, "n_layer": 3}),
]


@pytest.mark.parametrize(("node", "size"), SIZES)
@pytest.mark.parametrize("kind", ["all layers", "halves", "with a mask"])
def test_both_passes_are_as_near_float64_as_torchs_and_rounded(read, amx, node, size, kind):
    ours, plain = (make if kind == "halves" else fused)(**size), make(fused=False, **size)
    given = {}
    if kind == "with a mask":
        given["attention_mask"] = torch.ones_like(IDS)
        given["attention_mask"][:, -1] = 0
    exact = passes(make(fused=False, **size).double(), **given)
    hidden, each, together = errors(ours, exact, **given)
    kernels = {"all layers": ALL, "halves": HALVES * 3, "with a mask": ["feed_forward"] * 3}[kind]
    assert read == kernels[: len(kernels) // 3 * size.get("n_layer", 2) or 1]
    wanted, each_wanted, together_wanted = errors(plain, exact, **given)
    assert _ROUNDED < hidden <= _LIKE * wanted
    assert _ROUNDED < together <= _LIKE * together_wanted
    for found, limit in zip(each, each_wanted, strict=True):
        assert found <= _LIKE * limit


@pytest.mark.parametrize(("node", "size"), SIZES)
def test_the_graph_has_one_node_where_layers_are_small(read, amx, node, size):
    with autocast():
        out = fused(**size).base_model(IDS, use_cache=False)[0]
    last = out.grad_fn.next_functions[0][0]
    while type(last).__name__ in ("ViewBackward0", "UnsafeViewBackward0"):
        last = last.next_functions[0][0]
    assert type(last).__name__ == node


def test_a_pass_without_a_gradient_is_as_near_and_rounded(read, amx):
    exact = hidden_of(make(fused=False).double())
    with autocast():
        ours, plain = hidden_of(fused()), hidden_of(make(fused=False))
        assert read == ALL
        by_halves = hidden_of(make())
    assert read == [*ALL, *HALVES * 2]
    assert torch.equal(ours, by_halves)
    assert _ROUNDED < error(ours, exact) <= _LIKE * error(plain, exact)


def test_the_backward_pass_is_rounded_after_autocast_has_ended(read, amx):
    model, found = fused(), []
    for inside in (True, False):
        model.zero_grad()
        with autocast():
            loss = model.base_model(IDS, use_cache=False)[0].square().sum()
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        found.append([p.grad.clone() for p in model.base_model.parameters()])
    assert all(map(torch.equal, *found))
    assert read == ALL * 2


@pytest.mark.parametrize("isa", OTHERS)
def test_without_matrix_units_autocast_is_torchs(read, isa, monkeypatch):
    be(isa, monkeypatch)
    with autocast():
        for ours in (fused(), make()):
            wanted = make(fused=False)
            assert torch.equal(hidden_of(ours), hidden_of(wanted))
            assert all(map(torch.equal, passes(ours)[1], passes(wanted)[1]))
    assert read == []
    for ours in (fused(), make()):
        hidden_of(ours)
    assert read == [*ALL, *HALVES * 2]


def test_with_matrix_units_autocast_is_the_kernels(read, monkeypatch):
    be("amx", monkeypatch)
    with autocast():
        hidden_of(fused())
        passes(fused())
        passes(make())
    assert read == [*ALL * 2, *HALVES * 2]


@pytest.mark.parametrize("isa", [*OTHERS, "amx"])
def test_copies_are_read_under_autocast_with_every_processor(read, isa, monkeypatch):
    be(isa, monkeypatch)
    model = fused()
    exact = hidden_of(make(fused=False).double())
    with autocast(), lay_out(model, bf16=True):
        found = hidden_of(model)
        assert read == ALL
    with autocast():
        wanted = error(hidden_of(make(fused=False)), exact)
    assert _ROUNDED < error(found, exact) <= _LIKE * wanted


def test_copies_of_the_other_precision_are_not_read(read, amx):
    """The halves compute, from the weights."""
    model, plain = fused(), make()
    with lay_out(model, bf16=True):
        assert torch.equal(hidden_of(model), hidden_of(plain))
    with autocast(), lay_out(model):
        assert torch.equal(hidden_of(model), hidden_of(plain))
    assert read == HALVES * 8


@pytest.mark.parametrize("held", [None, False, True])
def test_autocast_to_fp16_is_torchs(read, amx, held):
    model, plain = fused(), make(fused=False)
    with autocast(torch.float16):
        wanted = hidden_of(plain)
        if held is None:
            assert torch.equal(hidden_of(model), wanted)
            assert torch.equal(hidden_of(make()), wanted)
            assert torch.equal(passes(model)[0], passes(plain)[0])
        else:
            with lay_out(model, bf16=held):
                assert torch.equal(hidden_of(model), wanted)
    assert read == []


def test_where_autocast_is_off_or_another_devices_it_is_fp32(read, amx):
    model = fused()
    before = hidden_of(model)
    with autocast(), torch.autocast("cpu", enabled=False):
        assert torch.equal(hidden_of(model), before)
    with torch.autocast("xpu", torch.bfloat16):
        assert torch.equal(hidden_of(model), before)
    close(before, hidden_of(make(fused=False)))
    assert read == ALL * 3


@pytest.mark.parametrize(
    ("numbers", "fp32"),
    [
        (1, 64), (1 << 16, 64), ((1 << 16) + 1, 512), (1 << 18, 512), ((1 << 18) + 1, 1024),
        (1 << 20, 1024), ((1 << 20) + 1, None), (1 << 22, None), ((1 << 22) + 1, None),
    ],
)  # fmt: skip
def test_rows_are_counted_in_fp32_and_larger_weights_are_taken_in_bf16(numbers, fp32):
    assert layers.are_many(1, numbers, bf16=True) == (numbers <= 1 << 22)
    if fp32 is None:
        assert not layers.are_many(1 << 20, numbers, bf16=False)
    else:
        assert layers.are_many(fp32, numbers, bf16=False)
        assert not layers.are_many(fp32 - 1, numbers, bf16=False)


@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("most", [48 * 192, 48 * 192 - 1])
def test_which_way_a_pass_goes_depends_on_no_rows_and_no_gradient(gradient, most, amx, monkeypatch):
    """Else log-probs of a batch and of its minibatches would be rounded differently."""
    monkeypatch.setattr(layers, "_BF16_MOST", most)
    monkeypatch.setattr(whole_pass, "_SMALL", 1 << 20)
    called = []
    for name in ("decoder_layers", "feed_forward"):
        kernel = getattr(layers.rk, name)
        monkeypatch.setattr(
            layers.rk, name,
            lambda *given, _n=name, _k=kernel, **more: called.append(_n) or _k(*given, **more),
        )  # fmt: skip
    model = fused(n_inner=192)
    for ids in (IDS[:1, :1], IDS[:1, :3], IDS):
        called.clear()
        with autocast(), torch.set_grad_enabled(gradient):
            model.base_model(ids, use_cache=False)
        assert called == (["decoder_layers"] if most == 48 * 192 else [])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sampling_and_both_passes_agree_on_log_probs(read, amx, precision, monkeypatch):
    """They round the same factors: nearer each other than fp32 by far. All are one kernel's."""
    text = tiny_text()
    policy = Policy(tiny_model(text), text.vocab, Hardware(precision=precision))
    read.clear()
    with monkeypatch.context() as patch:
        patch.setattr(whole_pass, "_SMALL", 0)  # few rows are read from copies alone
        answers = answer(policy, text, PADDED, range(26))
    batch = collate(PADDED, answers.ids, text.pad_id)
    again = policy.logprobs(batch)[0]
    learned = policy.answer_logprobs(batch)
    assert set(read) == {"decoder_layers"}
    assert learned.requires_grad
    assert (answers.logprobs - again).abs().max() <= 1e-4
    assert (learned - again.sum(1)).abs().max() <= 1e-4
    exact = Policy(policy.model, text.vocab, Hardware()).logprobs(batch)[0]
    assert ((again - exact).abs().max() > 5e-4) == (precision == "bf16")


@pytest.mark.parametrize("half", ["attn", "mlp"])
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_part_in_another_precision_leaves_its_half_to_torch(half, name, taken, amx):
    """Autocast casts it, whatever it is in."""
    ours, plain = make(), make(fused=False)
    for model in (ours, plain):
        for block in model.transformer.h:
            part = getattr(block, half).c_proj
            setattr(part, name, torch.nn.Parameter(getattr(part, name).detach().bfloat16()))
    with autocast():
        found, wanted = hidden_of(ours), hidden_of(plain)
    assert taken == [{"attn": "feed_forward", "mlp": "self_attention"}[half]] * 2
    assert error(found, wanted) < 1e-2

"""Attention on a CPU: what is ours, its values and gradients, and what is left to torch."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

from rlhf_kernels.reference.causal_attention import causal_attention as formula
from tests.tolerances import assert_near_truth
from toolkit.models import attention


def states(length, heads=4, size=8, *, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shape = (3, length, heads, size)
    made = torch.randn(shape, generator=generator, dtype=dtype).transpose(1, 2)
    return made.requires_grad_()


def attend(q, k, v, mask=None, **settings):
    module = torch.nn.Module()
    module.num_key_value_groups = q.shape[1] // k.shape[1]
    return attention._attend(module, q, k, v, mask, **settings)[0]


def torchs(q, k, v):
    """The same as torch forms it from products, in fp32; [B, L, H, E]."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    with sdpa_kernel(SDPBackend.MATH):
        attended = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    return attended.transpose(1, 2)


@pytest.fixture
def left_to_torch(monkeypatch):
    """What torch's attention was called with; it computes nothing."""
    seen = []
    monkeypatch.setattr(attention, "sdpa_attention_forward", lambda *x, **_: (seen.append(x), None))
    return seen


@pytest.mark.parametrize("length", [2, 11, 16, 40, 150])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_values_and_gradients_are_those_of_the_formula(length, kv_heads):
    q, k, v = states(length), states(length, kv_heads, seed=1), states(length, kv_heads, seed=2)
    ours, want = attend(q, k, v), formula(q, k, v)
    assert ours.shape == (3, length, 4, 8)
    assert ours.is_contiguous()
    upstream = states(length, seed=3).detach().transpose(1, 2)
    got = torch.autograd.grad(ours, (q, k, v), upstream)
    exact = torch.autograd.grad(want, (q, k, v), upstream.double())
    plain = torchs(q, k, v)
    rough = torch.autograd.grad(plain, (q, k, v), upstream)
    for one, truth, torch32 in zip((ours, *got), (want, *exact), (plain, *rough), strict=True):
        assert_near_truth(one, truth, torch32)


@pytest.mark.parametrize("length", [2, 11, 16, 40, 150])
def test_bf16_states_are_attended_as_exactly_as_torch_does(length):
    """In fp32 inside, under autocast too; what comes out is rounded once."""
    q, k, v = (states(length, seed=i).detach().bfloat16().requires_grad_() for i in range(3))
    upstream = states(length, seed=3).detach().transpose(1, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, plain = attend(q, k, v), torchs(q, k, v)
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    want = formula(*wide)
    rounded = upstream.bfloat16()
    got = torch.autograd.grad(ours, (q, k, v), rounded)
    rough = torch.autograd.grad(plain, (q, k, v), rounded)
    exact = torch.autograd.grad(want, wide, rounded.double())
    for one, truth, theirs in zip((ours, *got), (want, *exact), (plain, *rough), strict=True):
        assert one.dtype == torch.bfloat16
        off, torch_off = ((x.double() - truth).norm() for x in (one, theirs))
        assert off <= 1.2 * torch_off
        assert off <= 3e-3 * truth.norm()


def test_under_autocast_rotated_states_are_attended_in_its_dtype(left_to_torch):
    """Rotation leaves queries and keys in fp32 beside values in bf16; torch rounds them too."""
    q, k = (states(11, seed=i) for i in range(2))
    v = states(11, seed=2).detach().bfloat16().requires_grad_()
    rounded = [x.detach().bfloat16() for x in (q, k, v)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = attend(q, k, v)
    assert torch.equal(ours, attend(*rounded))
    grads = torch.autograd.grad(ours.float().sum(), (q, k, v))
    assert [g.dtype for g in grads] == [torch.float32, torch.float32, torch.bfloat16]
    with torch.autocast("cpu", dtype=torch.float16):
        attend(q, k, v)
    assert len(left_to_torch) == 1  # no size is known for fp16


def test_a_layer_may_have_a_scale_of_its_own():
    q, k, v = (states(11, seed=i).detach() for i in range(3))
    torch.testing.assert_close(
        attend(q, k, v, scaling=0.7).double(), formula(q, k, v, scale=0.7), rtol=0, atol=2e-6
    )


def test_large_scores_stay_finite():
    q, k, v = (states(11, seed=i) for i in range(3))
    with torch.no_grad():
        out = attend(100 * q, 100 * k, v)
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("dtype", "length", "size", "ours"),
    [
        (torch.float32, 2, 64, True),
        (torch.float32, 2048, 64, True),
        (torch.float32, 2049, 64, False),
        (torch.float32, 1025, 128, False),
        (torch.bfloat16, 512, 64, True),
        (torch.bfloat16, 513, 64, False),
        (torch.float64, 11, 8, False),
    ],
)
def test_what_ours_is_faster_for_is_ours(left_to_torch, monkeypatch, dtype, length, size, ours):
    taken = []
    monkeypatch.setattr(attention.rk, "causal_attention", lambda *x, **_: taken.append(x))
    q = torch.empty(1, 1, length, size, dtype=dtype)
    with torch.no_grad():
        attend(q, q, q)
    assert (len(taken), len(left_to_torch)) == (ours, not ours)


@pytest.mark.parametrize(
    "case",
    ["mask", "dropout", "not causal", "two dtypes", "shorter queries", "bias"],
)
def test_what_is_not_plainly_causal_is_left_to_torch(case, left_to_torch):
    q, k, v = (states(11) for _ in range(3))
    mask, settings = None, {}
    if case == "mask":
        mask = torch.ones(3, 1, 11, 11, dtype=torch.bool)
    elif case == "dropout":
        settings = {"dropout": 0.1}
    elif case == "not causal":
        settings = {"is_causal": False}
    elif case == "two dtypes":
        v = v.bfloat16()
    elif case == "shorter queries":
        q = q[:, :, 4:]
    elif case == "bias":
        settings = {"position_bias": torch.zeros(1, 4, 11, 11)}
    attend(q, k, v, mask, **settings)
    assert len(left_to_torch) == 1


def test_a_model_gives_the_logits_of_its_eager_attention():
    config = LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    assert AttentionInterface._global_mapping["sdpa"] is attention._attend
    ids = torch.arange(22).view(2, 11)
    logits = {}
    for name in ("sdpa", "eager"):
        model.set_attn_implementation(name)
        with torch.no_grad():
            logits[name] = model(ids, use_cache=False).logits
    torch.testing.assert_close(logits["sdpa"], logits["eager"], rtol=0, atol=1e-6)

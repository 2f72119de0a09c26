"""Packages of others: missing, of another version, or there; always a row."""

import importlib.util
import sys
import types

import pytest
import torch

from rlhf_kernels.bench import field, inputs
from rlhf_kernels.bench.bench_cross_entropy import make_case
from rlhf_kernels.bench.bench_gather_logprobs import make_foreigners

HERE = importlib.util.find_spec


@pytest.fixture
def install(monkeypatch):
    """Return a function that makes a module importable, with these attributes."""
    found = {}

    def add(name, **attributes):
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            path = ".".join(parts[:end])
            module = types.ModuleType(path)
            monkeypatch.setitem(sys.modules, path, module)
            found[path] = module
        vars(module).update(attributes)

    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: found[name] if name in found else HERE(name)
    )
    return add


def make_quack(device="cuda"):
    def call(function):
        return {"logprobs": function(torch.zeros(2, 3), torch.tensor([0, 1]))}

    return field.make_foreign(field.QUACK, "ce", field.load_quack_logprobs, call, device)


def cross_entropy(x, target, reduction="mean", inplace_backward=False):
    return torch.nn.functional.cross_entropy(x, target, reduction=reduction)


def test_missing_package_says_so():
    provider = make_quack()
    assert provider.run is None
    assert provider.name == "QuACK ce"
    assert provider.note == "quack-kernels is not installed"


def test_package_with_other_names_says_which(install):
    install("quack.cross_entropy", xent=None)
    assert make_quack().run is None
    assert "is installed, but its API differs" in make_quack().note
    assert "cross_entropy" in make_quack().note


def test_package_with_other_arguments_says_which(install):
    install("quack.cross_entropy", cross_entropy=lambda x, target: x)
    note = make_quack().note
    assert note.endswith("but its API differs: <lambda> takes no argument reduction")


def test_package_without_the_module_says_which(install):
    install("quack")
    assert "API differs: No module named 'quack.cross_entropy'" in make_quack().note


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModuleNotFoundError("No module named 'triton'", name="triton"), "No module named"),
        (RuntimeError("no driver\nat all"), "RuntimeError: no driver at all"),
    ],
)
def test_package_that_cannot_be_imported_says_why(install, error, words):
    def load():
        raise error

    install("quack")
    provider = field.make_foreign(field.QUACK, "ce", load, dict, "cuda")
    assert provider.run is None
    assert "but cannot be imported: " in provider.note
    assert words in provider.note


def test_package_is_not_run_on_a_cpu(install):
    install("quack.cross_entropy", cross_entropy=cross_entropy)
    assert make_quack("cpu").note.endswith("but its kernels need a CUDA device")


def test_package_that_fits_runs(install):
    install("quack.cross_entropy", cross_entropy=cross_entropy)
    results = make_quack().run()
    assert results["logprobs"] == pytest.approx(torch.full((2,), 1 / 3).log())


def test_liger_gets_one_more_row_than_it_answers_for(install, monkeypatch):
    def selective(logits, input_ids, temperature=0.9, mask=None):
        assert logits.shape == (1, 5, 7)
        assert temperature == 1.0
        return logits[:, :-1].log_softmax(-1).gather(-1, input_ids[..., None])[..., 0]

    install("liger_kernel.ops.grpo_loss", fused_selective_log_softmax=selective)
    monkeypatch.setattr(field, "find_obstacle", lambda package, device: "")
    install("quack.cross_entropy")
    install("flash_attn.ops.triton.cross_entropy")
    logits, targets = torch.randn(4, 7), torch.tensor([0, 6, 3, 3])
    liger, quack, flash = make_foreigners(logits, targets, "cpu")
    want = logits.log_softmax(-1)[torch.arange(4), targets]
    torch.testing.assert_close(liger.run()["logprobs"], want)
    assert (quack.run, flash.run) == (None, None)


def make_flat_logits(rows, vocabulary, dtype, device="cpu"):
    return inputs.make_normal(rows, vocabulary, dtype=dtype, device=device)


def grpo(
    logits,
    old_logp,
    ref_logp,
    completion_ids,
    advantages,
    completion_mask=None,
    temperature=0.9,
    beta=0.04,
    eps_low=0.2,
    eps_high=0.4,
    inplace=True,
):
    """Compute what Liger documents, with torch."""
    assert (ref_logp, temperature, beta) == (None, 1.0, 0.0)
    logp = logits[:, :-1].float().log_softmax(-1)
    logp = logp.gather(-1, completion_ids[..., None])[..., 0]
    ratio = (logp - old_logp).exp()
    weight = advantages[:, None]
    loss = -torch.minimum(ratio * weight, ratio.clamp(1 - eps_low, 1 + eps_high) * weight)
    return loss, None, None


def test_liger_computes_our_loss_on_our_batch(install, monkeypatch):
    from rlhf_kernels.bench import bench_ppo_loss_from_logits as bench
    from rlhf_kernels.bench.harness import compare

    install("liger_kernel.transformers.grpo_loss", triton_grpo_loss=grpo)
    monkeypatch.setattr(field, "find_obstacle", lambda package, device: "")
    # Without peaks, at which any float32 baseline loses the digits of 1 - p.
    monkeypatch.setattr(inputs, "make_logits", make_flat_logits)
    case = bench.make_case((16, 33), torch.float32)
    liger = next(provider for provider in case.providers if provider.name == "Liger GRPO loss")
    liger.prepare()
    error, grad_error = compare(liger.run(), case.truth())
    assert error < 1e-5
    assert grad_error < 1e-4


class LinearGRPO:
    """Compute what Liger documents, with torch."""

    def __init__(self, beta=0.04, use_ref_model=True, epsilon_low=0.1, epsilon_high=0.3,
                 loss_type="dapo", temperature=1.0):  # fmt: skip
        assert (beta, use_ref_model, loss_type) == (0.0, False, "bnpo")
        self.loss = lambda logits, old, ids, adv: grpo(
            logits, old, None, ids, adv, None, 1.0, 0.0, epsilon_low, epsilon_high
        )[0]

    def __call__(self, hidden, weight, ids, mask, advantages, old_per_token_logps=None):
        logits = torch.nn.functional.pad(hidden @ weight.T, (0, 0, 0, 1))
        losses = self.loss(logits, old_per_token_logps, ids, advantages)
        return (losses * mask).sum() / mask.sum(), []


def test_liger_computes_our_linear_loss_on_our_batch(install, monkeypatch):
    from rlhf_kernels.bench import bench_linear_ppo_loss as bench
    from rlhf_kernels.bench import linear
    from rlhf_kernels.bench.harness import compare

    install("liger_kernel.chunked_loss.grpo_loss", LigerFusedLinearGRPOLoss=LinearGRPO)
    monkeypatch.setattr(field, "find_obstacle", lambda package, device: "")
    monkeypatch.setattr(linear, "PEAK", 0.0)
    case = bench.make_case((16, 33), torch.float32)
    liger = next(provider for provider in case.providers if provider.name == "Liger linear GRPO")
    error, grad_error = compare(liger.run(), case.truth())
    assert error < 1e-5
    assert grad_error < 1e-4


def test_the_linear_cross_entropies_of_others_get_their_arguments_in_their_order(
    install, monkeypatch
):
    from rlhf_kernels.bench import bench_linear_cross_entropy as bench
    from rlhf_kernels.bench.harness import compare

    def loss(weight, hidden, targets):
        return torch.nn.functional.cross_entropy(hidden @ weight.T, targets)

    def linear_cross_entropy(e, c, targets):
        return loss(c, e, targets)

    monkeypatch.setattr(field, "find_obstacle", lambda package, device: "")
    install("cut_cross_entropy", linear_cross_entropy=linear_cross_entropy)
    install(
        "liger_kernel.transformers.fused_linear_cross_entropy",
        LigerFusedLinearCrossEntropyLoss=lambda: loss,
    )
    case = bench.make_case((16, 33), torch.float32)
    truth = case.truth()
    for name in ("Liger linear CE", "cut-cross-entropy linear CE"):
        provider = next(provider for provider in case.providers if provider.name == name)
        assert compare(provider.run(), truth)[0] < 1e-5


def test_every_package_has_its_row_in_the_cross_entropy_case():
    names = [provider.name for provider in make_case((4, 8), torch.float32).providers]
    assert names[-4:] == [
        "Liger cross-entropy",
        "QuACK cross-entropy",
        "flash-attn cross-entropy",
        "cut-cross-entropy",
    ]

"""PPO's step: accumulation, the pretraining gradient, NaN, stop rules."""

import dataclasses

import pytest
import torch

import rlhf_kernels as rk
from tests.end_to_end import run_tiny
from tests.stages.test_kernels_used import context
from toolkit.models.heads import Policy, Scorer
from toolkit.models.trunk import FusedTrunk
from toolkit.spec.errors import StageFailed
from toolkit.stages import execute
from toolkit.stages.ppo import PPO
from toolkit.training.loop import configure


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    run_tiny(out, until="reward")
    return out / "stages"


def ready(stages, work, *overrides):
    ctx = context(stages, "ppo", work, *overrides)
    configure(ctx)
    stage = PPO(ctx)
    stage.setup()
    work.mkdir()
    return stage


def gradients(stage):
    return torch.cat([p.grad.flatten() for p in stage.updater.parameters])


@pytest.mark.parametrize("size", [1, 3, 7])
def test_micro_batches_accumulate_to_the_gradient_of_the_minibatch(stages, tmp_path, size):
    found = []
    for name, overrides in (("whole", []), ("parts", [f"hardware.micro_batch={size}"])):
        stage = ready(stages, tmp_path / name, *overrides)
        experience = stage._sample(0)
        stats = stage._backward_ppo(0, experience, torch.arange(16))
        stats |= stage._backward_ptx(0)
        found.append((gradients(stage), stats))
    whole, parts = found
    scale = whole[0].norm()
    assert (whole[0] - parts[0]).norm() < 1e-5 * scale
    for key in ("ppo/policy/policy_loss", "ppo/policy/clipfrac", "ptx/loss"):
        assert parts[1][key] == pytest.approx(whole[1][key], abs=1e-5)


def test_the_pretraining_gradient_is_added_with_its_coefficient(stages, tmp_path):
    parts, norms = {}, {}
    for coef in (0.0, 1.0, 27.8):
        stage = ready(stages, tmp_path / str(coef), f"ppo.ptx.coef={coef}")
        experience = stage._sample(0)
        stats = stage._backward_ppo(0, experience, torch.arange(16))
        if coef:
            stats |= stage._backward_ptx(0)
            norms[coef] = stats["ptx/grad_norm"]
        parts[coef] = gradients(stage)
        assert stats["ppo/grad_norm"] == pytest.approx(float(parts[0.0].norm()), rel=1e-4)
    once, many = parts[1.0] - parts[0.0], parts[27.8] - parts[0.0]
    assert norms[1.0] == pytest.approx(float(once.norm()), rel=1e-3)
    assert norms[27.8] == pytest.approx(27.8 * norms[1.0], rel=1e-4)
    assert (many - 27.8 * once).norm() < 1e-4 * many.norm()
    assert once.norm() > 0


def test_ppo_samples_the_same_answers_whatever_the_history(stages, tmp_path):
    first, second = ready(stages, tmp_path / "a"), ready(stages, tmp_path / "b")
    first._sample(0)
    assert first._sample(3).responses == second._sample(3).responses


def test_nan_stops_the_stage_saves_the_batch_and_keeps_the_checkpoint(
    stages, tmp_path, monkeypatch
):
    work, real, calls = tmp_path / "work", rk.linear_ppo_loss, []

    def poisoned(*args, **kwargs):
        calls.append(1)
        loss, stats = real(*args, **kwargs)
        return (loss + float("nan") if len(calls) == 9 else loss), stats

    monkeypatch.setattr(rk, "linear_ppo_loss", poisoned)
    with pytest.raises(StageFailed, match=r"policy loss is nan at step 3.*failed_batch\.pt"):
        execute(context(stages, "ppo", work, "checkpoint.every=1 steps"))
    saved = torch.load(work / "failed_batch.pt", weights_only=True)
    assert saved["batch"]["ids"].shape[0] == 16
    assert sorted(p.name for p in (work / "checkpoint").iterdir())[-1] == "step-000000002.pt"


def test_a_kl_above_the_limit_stops_ppo_by_name(stages, tmp_path):
    result = execute(
        context(stages, "ppo", tmp_path / "w", "ppo.stop_if.kl_above=1e-9", "ppo.lr=0.01")
    )
    assert "ppo.stop_if.kl_above = 1e-09" in result.gate
    assert (tmp_path / "w" / "policy" / "model.safetensors").exists()


def test_an_unreproducible_log_prob_is_refused_on_the_first_minibatch(
    stages, tmp_path, monkeypatch
):
    real = rk.linear_logprobs

    def shifted(*args, **kwargs):
        out = real(*args, **kwargs)
        return out._replace(logprobs=out.logprobs + 0.01 * torch.rand_like(out.logprobs))

    monkeypatch.setattr(rk, "linear_logprobs", shifted)
    with pytest.raises(StageFailed, match="on the first minibatch max_ratio_error"):
        execute(context(stages, "ppo", tmp_path / "w"))


def test_a_penalty_in_the_loss_trains_and_pulls_towards_the_reference(stages, tmp_path):
    stage = ready(
        stages, tmp_path / "w", "ppo.kl.place=loss", "ppo.kl.estimator=k3", "ppo.ptx=null"
    )
    metrics = stage.step(0)
    assert metrics["objective/kl"] == pytest.approx(0.0, abs=1e-5)
    assert metrics["ppo/grad_norm"] > 0


@pytest.mark.parametrize("override", ["ppo.temperature=0.7", "ppo.no_eos=null", "ppo.lam=0.9"])
def test_logprobs_kept_from_sampling_are_used_after_the_first_batch(
    stages, tmp_path, monkeypatch, override
):
    stage, passes = ready(stages, tmp_path / "w", override), []
    real = Policy.logprobs
    monkeypatch.setattr(
        Policy, "logprobs", lambda self, batch: passes.append(self) or real(self, batch)
    )
    first = stage._sample(0)
    assert stage.watch.keeps
    assert stage.watch.warnings == ()
    assert passes == [stage.models.policy, stage.models.reference]
    passes.clear()
    second = stage._sample(1)
    assert passes == [stage.models.reference]
    for experience, limit in ((first, 0.0), (second, 1e-4)):
        again, entropy = real(stage.models.policy, experience.batch)
        assert (again - experience.logprobs).abs().max() <= limit
        assert (entropy - experience.entropy).abs().max() <= limit


def misplace(monkeypatch):
    """Let gpt2 read tokens one place too late when it has a cache."""
    real = FusedTrunk.forward

    def late(self, ids, **kwargs):
        if ids.shape[1] == 1:
            kwargs["position_ids"] = torch.zeros_like(ids)
        return real(self, ids, **kwargs)

    monkeypatch.setattr(FusedTrunk, "forward", late)


def test_logprobs_that_sampling_gets_wrong_are_computed_again_and_the_run_says_so(
    stages, tmp_path, monkeypatch
):
    misplace(monkeypatch)
    events = []
    ctx = context(stages, "ppo", tmp_path / "w")
    ctx = dataclasses.replace(ctx, event=lambda kind, **fields: events.append((kind, fields)))
    result = execute(ctx)
    (warning,) = result.warnings
    assert "log-probs kept from sampling differ from recomputed ones by" in warning
    assert ("warning", warning) in [(kind, fields["message"]) for kind, fields in events]
    assert result.summary["kept"] is False
    assert result.summary["kept_error"] > 1e-3
    assert result.summary["audit"]["max_ratio_error"] <= 1e-5


@pytest.mark.parametrize("wrong", [False, True])
def test_a_resumed_ppo_does_not_decide_again(stages, tmp_path, monkeypatch, wrong):
    if wrong:
        misplace(monkeypatch)
    first = ready(stages, tmp_path / "a")
    first.step(0)
    torch.save(first.state(), tmp_path / "state.pt")
    second = ready(stages, tmp_path / "b")
    second.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert second.watch.keeps is not wrong
    assert second.watch.warnings == first.watch.warnings
    assert first.step(1) == second.step(1)


def test_values_learned_from_once_need_no_pass_of_their_own(stages, tmp_path, monkeypatch):
    """The same step, with one forward pass of the value function less."""
    once = ["ppo.minibatch=${ppo.batch}", "ppo.inner_epochs=1"]
    passes, real = [], Scorer.values_of
    monkeypatch.setattr(
        Scorer, "values_of", lambda self, batch: passes.append(batch) or real(self, batch)
    )
    found = {}
    for kept in (True, False):
        stage = ready(stages, tmp_path / str(kept), *once)
        if not kept:
            monkeypatch.setattr(PPO, "_once", lambda *_: False)
        passes.clear()
        found[kept] = (
            stage.step(0),
            len(passes),
            [p.clone() for p in stage.value_updater.parameters],
        )
    assert (found[True][1], found[False][1]) == (1, 2)
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-4, abs=1e-6)
    for ours, theirs in zip(found[True][2], found[False][2], strict=True):
        torch.testing.assert_close(ours, theirs)

"""The one trainer of sft and init: the mixture's gradient, kept epochs, dropout."""

import os

import pytest
import torch

from tests.end_to_end import SPEC, run_tiny
from toolkit.models.load import load_policy
from toolkit.spec.errors import StageFailed
from toolkit.spec.load import load_spec
from toolkit.stages import StageContext
from toolkit.stages.init import Init
from toolkit.stages.sft import Sft
from toolkit.training.loop import configure, run_stage


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    run_tiny(out, "data.task.demonstrations=64", until="pretrain")
    return out / "stages"


def context(stages, kind, work, *overrides):
    spec = load_spec(SPEC, overrides).spec
    inputs = {name: stages / name for name in ("data", "pretrain")}
    work.mkdir()
    return StageContext(spec=spec, name=kind, kind=kind, round=0, work=work, inputs=inputs)


def gradients(stages, work, mix):
    """Gradients of the first step, before the update."""
    ctx = context(stages, "init", work, f"ppo.init={{pretrain_mix: {mix}, length: 16, batch: 8}}")
    configure(ctx)
    stage = Init(ctx)
    stage.setup()
    held = []

    def keep(check):
        held.append(torch.cat([p.grad.flatten() for p in stage.updater.parameters]))
        return 0.0

    stage.updater.step = keep
    return stage, stage.step(0), held[0]


def test_a_quarter_of_the_examples_is_a_quarter_of_the_gradient(stages, tmp_path):
    stage, values, mixed = gradients(stages, tmp_path / "mixed", 0.25)
    assert (values["pretrain/examples"], values["demonstrations/examples"]) == (2.0, 6.0)
    parts = {}
    for name, batch in stage._parts(0, 0, 0).items():
        stage.model.zero_grad(set_to_none=True)
        loss = stage.policy.backward_text_loss(batch, batch.tokens)
        assert values[f"{name}/loss"] == pytest.approx(float(loss), rel=1e-5)
        parts[name] = torch.cat([p.grad.flatten() for p in stage.updater.parameters])
    expected = 0.75 * parts["demonstrations"] + 0.25 * parts["pretrain"]
    assert (mixed - expected).norm() < 1e-5 * expected.norm()
    assert (mixed - parts["demonstrations"]).norm() > 0.05 * expected.norm()


def test_without_a_mix_the_start_trains_on_demonstrations_only(stages, tmp_path):
    stage, values, _ = gradients(stages, tmp_path / "plain", 0.0)
    assert set(values) == {"loss", "grad_norm", "lr", "tokens"}
    assert stage.per_epoch == -(-len(stage.train) // 8)


def test_too_little_text_to_mix_in_is_said_with_its_key(stages, tmp_path):
    ctx = context(stages, "init", tmp_path / "work")
    stage = Init(ctx_with_length(ctx, 4096))
    with pytest.raises(StageFailed, match=r"ppo\.init\.length is 4096 but .* tokens; give data"):
        stage.setup()


def ctx_with_length(ctx, length):
    """A context whose start asks for longer pieces than `check` lets through."""
    from dataclasses import replace

    from toolkit.spec.schema import Init as Section

    ppo = replace(ctx.spec.ppo, init=Section(length=length))
    return replace(ctx, spec=replace(ctx.spec, ppo=ppo))


def test_a_kept_epoch_is_the_model_that_fewer_epochs_end_with(stages, tmp_path):
    plain = "sft.schedule={name: constant}"
    one = context(stages, "sft", tmp_path / "one", "sft.epochs=1", plain)
    two = context(stages, "sft", tmp_path / "two", "sft.epochs=2", "sft.select=reward", plain)
    for ctx in (one, two):
        run_stage(ctx)
    text = Sft(two)
    text.setup()
    models = (load_policy(f, text.text) for f in (one.work / "model", two.work / "epochs" / "1"))
    first, kept = (m.state_dict() for m in models)
    assert all(torch.equal(first[name], kept[name]) for name in first)
    assert not (two.work / "epochs" / "2").exists()


def test_a_kept_epoch_is_on_disk_before_a_checkpoint_relies_on_it(stages, tmp_path, monkeypatch):
    ctx = context(stages, "sft", tmp_path / "work", "sft.epochs=2", "sft.select=reward")
    stage = Sft(ctx)
    stage.setup()
    synced, sync = set(), os.fsync

    def keep(handle):
        synced.add(os.readlink(f"/proc/self/fd/{handle}"))
        sync(handle)

    monkeypatch.setattr(os, "fsync", keep)
    stage._end_epoch(1)
    kept = ctx.work / "epochs" / "1"
    assert (kept / "model.safetensors").is_file()
    wanted = {*kept.rglob("*"), kept, kept.parent, ctx.work}
    assert {str(path.resolve()) for path in wanted} <= synced


def test_dropout_acts_in_sft_and_not_in_the_start(stages, tmp_path):
    rates = {}
    for kind, stage in (("sft", Sft), ("init", Init)):
        overrides = ("sft.dropout=0.2", "ppo.init={length: 16}")
        made = stage(context(stages, kind, tmp_path / kind, *overrides))
        made.setup()
        drops = [m for m in made.model.modules() if isinstance(m, torch.nn.Dropout)]
        rates[kind] = {m.p for m in drops}
    assert rates == {"sft": {0.0, 0.2}, "init": {0.0}}

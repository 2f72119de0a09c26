"""Statements of the paper that no other test holds: how many answers, how much pretraining text."""

import dataclasses

import pytest
import torch

import toolkit.stages.ppo as ppo_stage
from tests.details.known import LN4, LN12, constant_policy
from tests.end_to_end import SPEC
from toolkit.data.batches import windows
from toolkit.spec.load import load_spec
from toolkit.stages import StageContext
from toolkit.stages.collect import Collect
from toolkit.stages.shared import backward_cross_entropy


def test_a_prompt_gets_four_to_nine_answers_both_included(stages, tmp_path):
    inputs = {kind: stages / kind for kind in ("data", "pretrain", "sft")}
    spec = load_spec(SPEC, ["collect.k=[4, 9]"]).spec
    ctx = StageContext(
        spec=spec, name="collect.1", kind="collect", round=1, work=tmp_path, inputs=inputs
    )
    stage = Collect(ctx)
    stage.setup()
    assert set(stage.k.tolist()) == {4, 5, 6, 7, 8, 9}
    assert int(stage.first[-1]) == int(stage.k.sum()) == len(stage.source)
    same = dataclasses.replace(ctx, spec=load_spec(SPEC, ["collect.k=4"]).spec)
    stage = Collect(same)
    stage.setup()
    assert set(stage.k.tolist()) == {4}


def test_the_order_in_which_a_spec_names_sources_changes_nothing(stages, tmp_path):
    inputs = {kind: stages / kind for kind in ("data", "pretrain", "sft")}
    drawn = []
    for sources in ("{sft: 1, base: 2}", "{base: 2, sft: 1}"):
        spec = load_spec(SPEC, [f"collect.sources={sources}"]).spec
        stage = Collect(
            StageContext(
                spec=spec, name="collect.1", kind="collect", round=1, work=tmp_path, inputs=inputs
            )
        )
        stage.setup()
        drawn.append(stage.source)
    assert drawn[0] == drawn[1]
    assert set(drawn[0]) == {"sft", "base"}


def test_a_minibatch_meets_ratio_times_its_episodes_of_pretraining_text(ppo, monkeypatch):
    drawn, real = [], ppo_stage.windows

    def watched(stream, starts, length):
        drawn.append((list(starts), length))
        return real(stream, starts, length)

    monkeypatch.setattr(ppo_stage, "windows", watched)
    stage = ppo("ppo.ptx.ratio=8")
    stage.step(0)
    assert [(len(starts), length) for starts, length in drawn] == [(8 * 16, 16)] * 4
    assert drawn[0][0] != drawn[1][0]


def test_the_pretraining_loss_is_a_mean_over_tokens_times_its_coefficient(text):
    stream = torch.tensor([0, 9, 1, 2, 9], dtype=torch.int32)  # 9 has probability 1/4, others 1/12
    batch = windows(stream, [0, 2], 2)
    assert batch.targets.tolist() == [9, 1, 2, 9]
    gradients = {}
    for weight in (1.0, 27.8):
        policy = constant_policy(text, {9: LN12 - LN4}, micro_batch=1)
        loss = backward_cross_entropy(policy, batch, weight=weight)
        assert loss == pytest.approx((2 * LN4 + 2 * LN12) / 4, rel=1e-6)
        gradients[weight] = policy.model.transformer.ln_f.bias.grad
    assert torch.allclose(gradients[27.8], 27.8 * gradients[1.0], rtol=1e-5)
    assert gradients[1.0].norm() > 0

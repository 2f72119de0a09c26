"""The reward stage's step: passes of whole prompts, the same gradient however they are cut."""

import pytest
import torch

from tests.end_to_end import run_tiny
from tests.stages.test_kernels_used import context
from toolkit.models import compute
from toolkit.stages import reward
from toolkit.stages.reward import Reward
from toolkit.training.loop import configure


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    run_tiny(out, until="label")
    return out / "stages"


def ready(stages, work, *overrides):
    ctx = context(stages, "reward", work, *overrides)
    configure(ctx)
    stage = Reward(ctx)
    stage.setup()
    return stage


def backward(stages, work, *overrides):
    """The gradient of one step, its loss and accuracy, and the answers of each pass."""
    stage = ready(stages, work, *overrides)
    collated, passes = stage._collate, []

    def count(records):
        passes.append(sum(len(r["ranks"]) for r in records))
        return collated(records)

    stage._collate = count
    loss, accuracy = stage._backward(0, stage.train[:6])
    gradient = torch.cat([p.grad.flatten() for p in stage.updater.parameters])
    return gradient, loss, accuracy, passes


@pytest.mark.parametrize(("tokens", "overrides"), [(150, []), (1, []), (2000, ["micro_batch=5"])])
def test_passes_of_whole_prompts_add_up_to_the_gradient_of_the_batch(
    stages, tmp_path, monkeypatch, tokens, overrides
):
    whole = backward(stages, tmp_path / "whole")
    monkeypatch.setattr(compute, "_CPU_TOKENS", tokens)
    parts = backward(stages, tmp_path / "parts", *[f"hardware.{x}" for x in overrides])
    assert len(whole[3]) == 1
    assert len(parts[3]) > 1
    assert sum(parts[3]) == whole[3][0]
    assert (whole[0] - parts[0]).norm() < 1e-5 * whole[0].norm()
    assert parts[1:3] == pytest.approx(whole[1:3], abs=1e-6)


def test_the_spec_sets_how_far_untrained_scores_spread(stages, tmp_path):
    usual = ready(stages, tmp_path / "usual")
    small = ready(stages, tmp_path / "small", "reward.head_std=0.001")
    head = usual.model.score
    factor = 0.001 * (head.in_features + 1) ** 0.5
    torch.testing.assert_close(small.model.score.weight, head.weight * factor)
    spread = [torch.cat(stage._scores(stage.train)).std().item() for stage in (usual, small)]
    assert spread[1] == pytest.approx(spread[0] * factor, rel=1e-3)


def test_whether_rows_are_read_is_decided_at_the_start_and_kept(stages, tmp_path, monkeypatch):
    """By the weights a stage begins with, so that one that goes on decides as it did."""
    stage = ready(stages, tmp_path / "work")
    assert stage.scorer.widest == float("inf")
    stage.scorer.widest = 77
    stage.restore(stage.state())
    stage._centre()
    assert stage.scorer.widest == 77


def test_a_long_answer_makes_the_passes_of_its_own_chunk_shorter_alone(
    stages, tmp_path, monkeypatch
):
    stage = ready(stages, tmp_path / "work")
    records = [{**r, "responses_ids": [*r["responses_ids"]]} for r in stage.train[:8]]
    records[0]["responses_ids"][0] = [1] * 20
    sizes, collated = [], stage._collate

    def count(part):
        sizes.append(len(part))
        return collated(part)

    stage._collate = count
    monkeypatch.setattr(compute, "_CPU_TOKENS", 200)
    monkeypatch.setattr(reward, "_CHUNK", 4 * len(records[0]["ranks"]))
    scores = stage._scores(records)
    assert [len(x) for x in scores] == [len(r["ranks"]) for r in records]
    assert sum(sizes) == 8
    assert sizes[-1] > sizes[0]

"""Every stage's mathematics goes through rlhf_kernels: without a kernel its stage cannot run."""

import pytest

import rlhf_kernels as rk
from tests.end_to_end import SPEC, run_tiny
from toolkit.spec.load import load_spec
from toolkit.stages import StageContext, execute

READS = {
    "pretrain": ("data",),
    "sft": ("data", "pretrain"),
    "reward": ("data", "pretrain", "sft", "label"),
    "ppo": ("data", "pretrain", "sft", "reward"),
    "evaluate": ("data", "pretrain", "sft", "reward", "learner"),
}
USED = [
    ("pretrain", "linear_cross_entropy"),
    ("pretrain", "linear_logprobs"),
    ("sft", "linear_cross_entropy"),
    ("sft", "linear_logprobs"),
    ("reward", "ranking_loss"),
    ("ppo", "linear_logprobs"),
    ("ppo", "shaped_rewards"),
    ("ppo", "gae"),
    ("ppo", "token_kl"),
    ("ppo", "linear_ppo_loss"),
    ("ppo", "value_loss"),
    ("ppo", "linear_cross_entropy"),
    ("ppo", "explained_variance"),
    ("evaluate", "linear_logprobs"),
    ("evaluate", "token_kl"),
]


class TakenAwayError(Exception):
    """Raised in place of a kernel."""


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    run_tiny(out)
    return out / "stages"


def context(stages, kind, work, *overrides):
    names = {"label": "label.1", "reward": "reward.1", "learner": "ppo.1"}
    folder = {k: stages / names.get(k, k) for k in READS[kind]}
    spec = load_spec(SPEC, list(overrides)).spec
    return StageContext(
        spec=spec, name=kind, kind=kind, round=1, work=work, inputs=folder, threads=2
    )


@pytest.mark.parametrize(("kind", "op"), USED)
def test_a_stage_without_its_kernel_cannot_run(stages, kind, op, tmp_path, monkeypatch):
    def taken_away(*args, **kwargs):
        raise TakenAwayError(op)

    monkeypatch.setattr(rk, op, taken_away)
    with pytest.raises(TakenAwayError, match=op):
        execute(context(stages, kind, tmp_path / "work"))


def test_whitened_rewards_go_through_the_kernel(stages, tmp_path, monkeypatch):
    def taken_away(*args, **kwargs):
        raise TakenAwayError("whiten")

    monkeypatch.setattr(rk, "whiten", taken_away)
    with pytest.raises(TakenAwayError):
        execute(context(stages, "ppo", tmp_path / "work", "ppo.whiten=both"))

"""A run with the fused head ends where one with the model's own logits ends."""

import pytest
import torch
from safetensors.torch import load_file

from tests.end_to_end import done, run_tiny

MODELS = ("pretrain/model", "sft/model", "reward.1/model", "ppo.1/policy", "ppo.1/value")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    for fused in ("true", "false"):
        run_tiny(out / fused, f"hardware.fused_head={fused}", until="ppo")
        used = done(out / fused, "ppo.1")["parts"]["hardware"]["fused_head"]
        assert used == (fused == "true")
    return out


def leave_out_rounding(folder, name, weight, plain):
    """Overwrite what no loss sees: its gradient is rounding, which Adam enlarges to a step.

    Attention's softmax takes the same from all keys' scores, the ranking loss from both answers'.
    """
    if name.endswith("c_attn.bias"):
        keys = slice(len(weight) // 3, 2 * len(weight) // 3)
        weight[keys] = plain[keys]
    if folder in ("reward.1/model", "ppo.1/value") and name.endswith("ln_f.bias"):
        weight.copy_(plain)


@pytest.mark.parametrize("folder", MODELS)
def test_final_weights_agree(runs, folder):
    ours, plain = (
        load_file(runs / fused / "stages" / folder / "model.safetensors")
        for fused in ("true", "false")
    )
    assert ours.keys() == plain.keys()
    for name, weight in ours.items():
        leave_out_rounding(folder, name, weight, plain[name])
        # Rounding of the gradients, through some ten steps of Adam, which divides by their size.
        torch.testing.assert_close(weight, plain[name], rtol=1e-3, atol=2e-5)

"""Models that do not keep to a mask and positions of ours: all are refused."""

import pytest
import torch

from tests.models.test_shared_prompt import make
from toolkit.models.shared_prompt import widest_row


class Spoilt(torch.nn.Module):
    """Adds something to a module's result, by places in the row."""

    def __init__(self, inner, spoil):
        super().__init__()
        self.inner, self.spoil = inner, spoil

    def forward(self, x):
        y = self.inner(x)
        return y + self.spoil(torch.arange(y.shape[-2])).unsqueeze(-1) * torch.ones(y.shape[-1])


@pytest.mark.parametrize(
    "spoil",
    [
        lambda at: 1e-3 * at,
        lambda at: 1e-4 * (at % 2),
        lambda at: (at >= 20).float(),  # seen by the last of twenty answers alone
    ],
)
def test_what_goes_by_places_in_the_row_is_refused_however_little(text, tmp_path, spoil):
    model = make("gpt2", text, tmp_path)
    model.transformer.ln_f = Spoilt(model.transformer.ln_f, spoil)
    assert widest_row(model) == 0


def test_a_model_on_which_a_mask_has_no_effect_was_not_tried(text, tmp_path):
    model = make("gpt2", text, tmp_path)
    for layer in model.transformer.h:
        torch.nn.init.zeros_(layer.attn.c_proj.weight)
    assert widest_row(model) == 0


def test_a_model_that_refuses_positions_reads_answers_apart(text, tmp_path, monkeypatch):
    model = make("gpt2", text, tmp_path)
    forward = model.transformer.forward

    def refuse(*args, **named):
        if "position_ids" in named:
            raise RuntimeError("no positions")
        return forward(*args, **named)

    monkeypatch.setattr(model.transformer, "forward", refuse)
    assert widest_row(model) == 0

"""Models whose outputs can be worked out with pencil and paper."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch

from tests.tiny import tiny_model
from toolkit.models.heads import Policy, Scorer
from toolkit.spec.schema import Hardware


class Counting(torch.nn.Module):
    """A scalar model: the output at a position is the sum of the token ids up to it."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(score_offset=0.0, pad_token_id=10)
        self.device = torch.device("cpu")
        self.score = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.ones_(self.score.weight)

    def get_input_embeddings(self):
        """It has none."""

    def base_model(self, ids, use_cache):
        assert not use_cache
        return (ids.cumsum(1).float().unsqueeze(-1),)


def counting() -> Scorer:
    return Scorer(Counting(), Hardware())


def constant_policy(text, logits, temperature=1.0, **hardware) -> Policy:
    """A GPT-2 whose logits are `logits` (id -> value, else 0) at every position.

    The last norm gives the first unit vector whatever comes in, so a logit is the first entry of
    the token's row. Padding, which is outside the softmax, would win by far.
    """
    model = tiny_model(text)
    with torch.no_grad():
        last = model.transformer.ln_f
        last.weight.zero_()
        last.bias.zero_()
        last.bias[0] = 1.0
        table = model.get_output_embeddings().weight
        table[:, 0] = 0.0
        for index, value in logits.items():
            table[index, 0] = value
        table[text.pad_id, 0] = 50.0
    return Policy(model, text.vocab, Hardware(**hardware), temperature)


LN4, LN12 = math.log(4), math.log(12)

"""Details 10 to 15: the reward model."""

import json
from types import SimpleNamespace

import pytest
import torch

from tests.details.known import Counting, counting
from tests.tiny import tiny_model
from toolkit.data.batches import collate
from toolkit.models.heads import Scorer
from toolkit.models.load import make_scalar
from toolkit.models.save import save_model
from toolkit.spec.schema import Hardware, Spec
from toolkit.spec.schema import Reward as RewardSection
from toolkit.stages.reward import Reward
from toolkit.training.optim import make_updater
from toolkit.training.random import Stream

PAD = 10


def test_10_reward_and_value_read_prompt_and_response():
    batch = collate([[1, 2], [4]], [[3, 4], [5]], PAD)
    assert counting().scores(batch).tolist() == [1 + 2 + 3 + 4, 4 + 5]
    # a token's value is read where it is predicted, so it does not yet know that token
    assert counting().values(batch).tolist() == [[1 + 2, 1 + 2 + 3], [4, 0]]


def test_11_the_score_is_read_at_the_last_real_token():
    batch = collate([[1, 2], [4]], [[3, 4, 5, 6], [5]], PAD)
    assert batch.ids.tolist()[1] == [4, 5, PAD, PAD, PAD, PAD]
    assert batch.ends.tolist() == [5, 7]
    assert counting().scores(batch).tolist() == [21, 9]


def test_12_the_head_is_drawn_with_one_over_root_of_width_plus_one(text, tmp_path, monkeypatch):
    model = tiny_model(text)  # 32 wide
    save_model(model, tmp_path / "lm", text)
    drawn, real = [], torch.nn.init.normal_

    def watched(tensor, mean=0.0, std=1.0, generator=None):
        drawn.append((tuple(tensor.shape), mean, std))
        return real(tensor, mean, std, generator)

    monkeypatch.setattr(torch.nn.init, "normal_", watched)
    scalar = make_scalar(tmp_path / "lm", text, Stream(1, "head"))
    shape, mean, std = drawn[-1]
    assert (shape, mean) == ((1, 32), 0.0)
    assert std == pytest.approx(0.17407766)  # 33 ** -0.5
    assert scalar.score.bias is None


def test_13_one_epoch_and_the_rate_falls_to_a_tenth():
    config = RewardSection()
    assert config.epochs == 1
    updater = make_updater(counting().model, config.optimizer, config.lr, config.schedule, 4)
    rates = []
    for _ in range(5):
        rates.append(updater.lr)
        updater.parameters[0].grad = torch.ones(1, 1)
        updater.step(lambda norm: None)
    # 9e-6 * (0.1 + 0.9 * (1 + cos(pi k / 4)) / 2) for k = 0 ... 4
    by_hand = [9e-6, 7.813782e-6, 4.95e-6, 2.086218e-6, 9e-7]
    assert rates == pytest.approx(by_hand, rel=1e-6)


def stage_of(folder=None, valid=()):
    """A reward stage that scores by counting."""
    ctx = SimpleNamespace(spec=Spec(), kind="reward", round=1, inputs={"data": folder})
    stage = Reward(ctx)
    stage.text, stage.model = SimpleNamespace(pad_id=PAD), Counting()
    stage.scorer = Scorer(stage.model, Hardware())
    stage.train, stage.valid = list(valid)[:1], list(valid)
    return stage


def test_14_demonstrations_average_zero_after_centring(tmp_path):
    demos = [
        {"prompt_ids": [1, 2], "response_ids": [3]},
        {"prompt_ids": [4], "response_ids": [5, 1]},
    ]
    lines = "".join(json.dumps(demo) + "\n" for demo in demos)
    (tmp_path / "demonstrations.train.jsonl").write_text(lines)
    stage = stage_of(tmp_path)
    stage._centre()
    assert stage.model.config.score_offset == (6 + 10) / 2
    batch = collate([[1, 2], [4], [1]], [[3], [5, 1], [1]], PAD)
    assert stage.scorer.scores(batch).tolist() == [-2, 2, 2 - 8]


def ranked(responses, ranks, labeler):
    return {
        "prompt": f"{labeler}{ranks}",
        "prompt_ids": [1],
        "responses_ids": responses,
        "responses": ["" for _ in responses],
        "ranks": ranks,
        "labeler": labeler,
    }


def test_15_accuracy_by_split_labeler_k_and_length_and_a_histogram():
    valid = [
        ranked([[5], [3]], [1, 2], "a"),  # scores 6, 4: its one pair is right
        ranked([[2], [4], [6]], [1, 2, 3], "b"),  # 3, 5, 7: all three wrong
        ranked([[1, 1, 1], [1]], [1, 2], "b"),  # 4, 2: right, and two tokens long on average
    ]
    found = stage_of(valid=valid)._accuracy()

    def shares(part):
        return {name: (entry["accuracy"], entry["pairs"]) for name, entry in found[part].items()}

    assert (found["train"]["accuracy"], found["train"]["pairs"]) == (1.0, 1)
    assert found["valid"]["accuracy"] == pytest.approx(2 / 5)
    assert shares("by_k") == {"2": (1.0, 2), "3": (0.0, 3)}
    assert shares("by_labeler") == {"a": (1.0, 1), "b": (pytest.approx(0.25), 4)}
    assert shares("by_length") == {"to 1.3": (pytest.approx(0.25), 4), "from 1.3": (1.0, 1)}
    assert sum(found["histogram"]["counts"]) == 7
    assert (found["histogram"]["edges"][0], found["histogram"]["edges"][-1]) == (2.0, 7.0)

"""Win rates and the signs of over-optimisation."""

from types import SimpleNamespace

import numpy as np
import pytest

from toolkit.report.joined.build import _share
from toolkit.spec.schema import Evaluate as EvaluateSettings
from toolkit.stages.collect import Collect
from toolkit.stages.elements import split_by_prompt
from toolkit.stages.evaluate import Evaluate
from toolkit.stages.label import ranks_of
from toolkit.stages.verdicts import over_optimisation, win_rate


def test_a_tie_counts_one_half_and_the_interval_is_of_the_mean():
    verdict = win_rate([1.0, 1.0, 0.0, 0.5], [0.0, 0.0, 1.0, 0.5])
    assert (verdict["wins"], verdict["ties"], verdict["losses"]) == (2, 1, 1)
    assert verdict["win_rate"] == pytest.approx(0.625)
    half = 1.96 * (0.6875 / 3) ** 0.5 / 2  # points 1, 1, 0, .5: sum of squares 0.6875 around .625
    assert verdict["low"] == pytest.approx(0.625 - half)
    assert verdict["high"] == 1.0


def test_prompts_of_one_group_count_once_in_the_interval():
    """Two questions asked twice each, alike: the interval of two observations, not of four."""
    ours, theirs = [1.0, 1.0, 0.0, 0.0, 1.0, 1.0], [0.0] * 6
    verdict = win_rate(ours, theirs, ["a", "a", "b", "b", "c", "c"])
    # points 1, 1, .5, .5, 1, 1; mean 5/6; sums of deviations by group 1/3, -2/3, 1/3
    half = 1.96 * ((1 / 9 + 4 / 9 + 1 / 9) * 3 / 2) ** 0.5 / 6
    assert verdict["win_rate"] == pytest.approx(5 / 6)
    assert verdict["low"] == pytest.approx(5 / 6 - half)
    alone = win_rate([1.0, 0.0, 1.0], [0.0] * 3)
    assert (verdict["low"], verdict["high"]) == pytest.approx((alone["low"], alone["high"]))
    assert verdict["low"] < win_rate(ours, theirs)["low"]
    assert verdict["wins"] == 4
    # groups of two sizes: mean 3/4, sums of deviations 3/4 and -3/4
    uneven = win_rate([1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0], ["a", "a", "a", "b"])
    assert uneven["low"] == pytest.approx(0.75 - 1.96 * (2 * (9 / 16 + 9 / 16)) ** 0.5 / 4)
    one = win_rate([1.0, 1.0], [0.0, 0.0], ["a", "a"])
    assert (one["low"], one["high"]) == (0.0, 1.0)


def test_the_own_interval_is_that_of_the_joined_report():
    points, groups = np.array([1.0, 0.5, 0.0, 1.0, 1.0]), ["a", "b", "b", "a", "c"]
    joined = _share(points, np.ones(5), groups)
    own = win_rate((points - 0.5).tolist(), [0.0] * 5, groups)
    for key in ("win_rate", "low", "high"):
        assert own[key] == pytest.approx(joined[key])


def test_evaluate_hands_the_task_s_groups_to_the_interval():
    stage = Evaluate.__new__(Evaluate)
    stage.config, stage.groups = EvaluateSettings(win_rate=("oracle",)), ["a", "a", "a", "b"]
    scores = {"sft": [0.0, 0.0, 0.0, 1.0], "ours": [1.0, 1.0, 1.0, 0.0]}
    stage.measured = {n: {"rows": [{"oracle": v} for v in own]} for n, own in scores.items()}
    wanted = win_rate(scores["ours"], scores["sft"], stage.groups)
    assert stage._win_rates("ours") == {"oracle": wanted}
    assert wanted != win_rate(scores["ours"], scores["sft"])


def test_a_fall_on_few_questions_asked_often_is_no_fall():
    """Of four questions three fall by one and one rises by one: -0.5 with an error of 0.5."""
    high, low, reward = [1.0] * 75 + [0.0] * 25, [0.0] * 75 + [1.0] * 25, [3.0, 4.0] * 50
    before = {"oracle": high, "exact": high, "reward": [0.0] * 100}
    after = {"oracle": low, "exact": low, "reward": reward}
    assert over_optimisation(before, after, [])
    assert over_optimisation(before, after, [], [at // 25 for at in range(100)]) == []


def judged(oracle, exact, reward, prompts=400):
    """Values on `prompts` prompts whose means are those given."""
    swing = [0.1 if i % 2 else -0.1 for i in range(prompts)]
    right = [1.0 if i < exact * prompts else 0.0 for i in range(prompts)]
    return {
        "oracle": [oracle + s for s in swing],
        "exact": right,
        "reward": [reward + s for s in swing[::-1]],
    }


def test_reward_up_and_oracle_down_is_called_by_its_name():
    warnings = over_optimisation(judged(0.6, 0.4, 0.0), judged(0.5, 0.1, 3.0), [])
    assert len(warnings) == 1
    assert warnings[0].startswith("over-optimisation: the reward model's score rose from 0.00 to")
    assert "oracle's score fell from 0.600 to 0.500" in warnings[0]
    assert "exact answers fell from 0.400 to 0.100" in warnings[0]


def test_a_difference_within_the_noise_is_no_fall():
    noisy = judged(0.6, 0.4, 3.0)
    noisy["oracle"] = [v + (0.5 if i % 3 else -1.01) for i, v in enumerate(noisy["oracle"])]
    assert over_optimisation(judged(0.6, 0.4, 0.0), noisy, []) == []


def test_a_fall_from_the_peak_during_ppo_is_noticed():
    before, after = judged(0.6, 0.4, 0.0), judged(0.7, 0.5, 3.0)
    curve = [{"objective/oracle": v} for v in [0.6] * 5 + [0.9] * 5 + [0.7] * 5]
    assert "peaked at 0.900 and ended at 0.700" in over_optimisation(before, after, curve)[0]
    assert over_optimisation(before, after, curve[:10]) == []


def test_a_lucky_window_is_no_peak():
    before, after = judged(0.6, 0.4, 0.0), judged(0.7, 0.5, 3.0)
    swing = [0.12, -0.1, 0.02, -0.11, 0.1, 0.0, -0.05, 0.09]
    noise = [{"objective/oracle": 0.7 + s} for s in swing * 10]
    lucky = [{"objective/oracle": 0.77}] * 6
    assert over_optimisation(before, after, [*noise[:40], *lucky, *noise[40:]]) == []


def test_an_improvement_is_no_warning():
    assert over_optimisation(judged(0.6, 0.4, 0.0), judged(0.9, 0.8, 3.0), []) == []
    assert over_optimisation({"reward": [0.0, 0.0]}, {"reward": [1.0, 1.0]}, []) == []


def test_ranks_share_a_place_on_ties_or_not_as_asked():
    assert ranks_of([0.5, 1.0, 0.5, 0.0], ties=True) == [2, 1, 2, 3]
    assert ranks_of([0.5, 1.0, 0.5, 0.0], ties=False) == [2, 1, 3, 4]


def test_nobody_stands_on_both_sides_of_the_split():
    records = [{"prompt": f"p{i % 50}", "user": f"u{i % 7}" if i % 2 else None} for i in range(400)]
    train, valid = split_by_prompt(records, 0.3, seed=1)
    owners = [{r["user"] or r["prompt"] for r in side} for side in (train, valid)]
    assert owners[0].isdisjoint(owners[1])
    assert valid
    assert split_by_prompt(records[::-1], 0.3, seed=1)[1] == valid[::-1]


def test_a_user_trains_or_validates_with_collected_prompts_too():
    ours = [{"prompt": f"p{at}", "user": f"u{at % 20}"} for at in range(100)]
    given = [{"prompt": f"given {at}", "user": f"u{at}", "split": "train"} for at in range(20)]
    shared = [{"prompt": "asked by all", "user": f"u{at}"} for at in range(20)]
    train, valid = split_by_prompt(ours, 0.3, seed=1)
    assert not {r["user"] for r in train} & {r["user"] for r in valid}
    assert train
    assert valid
    assert split_by_prompt([*ours, *given], 0.3, seed=1)[1] == []
    train, valid = split_by_prompt([*ours, *shared], 0.3, seed=1)
    assert not {r["prompt"] for r in train} & {r["prompt"] for r in valid}
    assert not {r["user"] for r in train} & {r["user"] for r in valid}
    assert sum(r["prompt"] != "asked by all" for r in [*train, *valid]) == len(ours)


def test_collected_records_name_the_user_of_their_prompt():
    stage = Collect.__new__(Collect)
    stage.prompts = [{"prompt": "a", "prompt_ids": [1], "user": "u"}]
    stage.first, stage.source = [0, 2], ["sft", "base"]
    stage.text = SimpleNamespace(decode_response=lambda ids: (str(ids), True))
    record = stage._record(0, {0: ([2], True), 1: ([3], False)})
    assert record["user"] == "u"
    assert record["prompt_ids"] == [1]
    assert (record["responses_ids"], record["finished"]) == ([[2], [3]], [True, False])

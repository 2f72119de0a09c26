"""Simulated labelers: functions of their place alone, alike in the oracle, each with a taste."""

from __future__ import annotations

import statistics

import pytest

from toolkit.data.labelers import Labeler, axes_of, normal, who_ranks
from toolkit.spec.schema import Data, Label, Labelers, Spec, Task

PROMPTS = [f"prompt {at}" for at in range(2000)]


def people(seed=1, **settings):
    chosen = Labelers(**{"taste": 0.3, "noise": 0.3} | settings)
    return [Labeler(chosen, seed, number) for number in range(chosen.count)]


def scores(person, answers=("it is red .", "it is blue .", "i do not know ."), oracle=0.5):
    return [person.score(p, "helpful", answer, oracle) for p in PROMPTS[:50] for answer in answers]


def test_without_taste_and_noise_a_labeler_is_the_oracle():
    (person,) = people(count=1, taste=0.0, noise=0.0)
    assert [person.score("p", "honest", "a b", score) for score in (-1.0, 0.2, 1.0)] == [-1, 0.2, 1]


def test_judgements_follow_from_seed_labeler_prompt_and_answer():
    assert [scores(p) for p in people()] == [scores(p) for p in people()]
    one, two = people(count=2)
    assert scores(one) != scores(two)
    assert scores(one) != scores(people(seed=2)[0])
    assert one.score("p", "helpful", "a", 0.0) != one.score("q", "helpful", "a", 0.0)
    # the number of labelers does not change who a labeler is
    assert scores(people(count=5)[0]) == scores(one)


def test_noise_is_per_judgement_and_taste_is_lasting():
    noisy, tasteful = people(count=1, taste=0.0)[0], people(count=1, noise=0.0)[0]
    spread = [noisy.score(prompt, "helpful", "a b", 0.0) for prompt in PROMPTS]
    assert statistics.stdev(spread) == pytest.approx(0.3, rel=0.05)
    assert abs(statistics.mean(spread)) < 0.03
    lasting = {tasteful.score(prompt, "helpful", "a b", 0.0) for prompt in PROMPTS}
    assert len(lasting) == 1
    assert lasting != {0.0}


def test_taste_weighs_axes_and_likes_length():
    weights = [[p.score("x", a, "", 1.0) for a in ("helpful", "honest")] for p in
               people(count=200, noise=0.0)]  # fmt: skip
    helpful, honest = zip(*weights, strict=True)
    assert statistics.stdev(helpful) == pytest.approx(0.3, rel=0.15)
    assert abs(statistics.correlation(helpful, honest)) < 0.2
    assert min(helpful) >= 0.0
    longer = [p.score("x", "helpful", "a " * 30, 0.0) > p.score("x", "helpful", "a " * 2, 0.0)
              for p in people(count=200, noise=0.0)]  # fmt: skip
    assert 60 < sum(longer) < 140


def test_the_last_labelers_are_held_out():
    assert [p.held_out for p in people(count=4, held_out=1)] == [False, False, False, True]


def test_each_prompt_has_one_labeler_and_a_share_has_several():
    settings = Labelers(count=5, overlap=0.2, raters=3)
    ranks = [who_ranks(settings, 1, "label", 1, at) for at in range(4000)]
    several = [who for who in ranks if len(who) > 1]
    assert {len(who) for who in ranks} == {1, 3}
    assert len(several) / len(ranks) == pytest.approx(0.2, abs=0.03)
    for number in range(5):
        alone = sum(who == [number] for who in ranks)
        assert alone / (len(ranks) - len(several)) == pytest.approx(0.2, abs=0.03)
    assert all(len(set(who)) == len(who) for who in several)
    everyone = Labelers(count=5, overlap=1.0)
    assert who_ranks(everyone, 1, "label", 1, 0) == [0, 1, 2, 3, 4]


def test_draws_are_standard_normal():
    draws = [normal(1, "x", at) for at in range(20000)]
    assert statistics.mean(draws) == pytest.approx(0.0, abs=0.03)
    assert statistics.stdev(draws) == pytest.approx(1.0, abs=0.02)
    assert sum(abs(d) < 1.0 for d in draws) / len(draws) == pytest.approx(0.6827, abs=0.01)


def test_axes_are_those_of_the_task_unless_a_function_judges():
    task = Task(name="facts", demonstrations=10, prompts=50, valid_prompts=20, pretrain=10)
    prompts = ["what color is tomin ?", "tell me the code of the gate ."]
    assert axes_of(Spec(data=Data(task=task)))(prompts) == ["helpful", "harmless"]
    own = Spec(data=Data(task=task), label=Label(fn="x.py:f"))
    assert axes_of(own)(prompts) == ["all", "all"]
    assert axes_of(Spec())(prompts) == ["all", "all"]

"""Goals are judged from rows: met, missed, or not measured."""

import io

import pytest

from rlhf_kernels.bench.cases import OURS
from rlhf_kernels.bench.goals import judge_all, make_goals, print_goals
from rlhf_kernels.bench.rows import Row


def make_row(goal, ratio, **changes):
    fields = {
        "op": goal.case[0],
        "mode": goal.case[1],
        "provider": goal.providers[0] if goal.providers else OURS,
        "shape": goal.shape,
        "dtype": goal.dtype,
        "ratio": ratio,
        "ratio_p10": None if ratio is None else 0.9 * ratio,
        "ratio_p90": None if ratio is None else 1.1 * ratio,
    }
    return Row(**(fields | changes))


RATIOS = [number for number, goal in enumerate(make_goals()) if goal.kind == "ratio"]


@pytest.fixture(params=RATIOS)
def number(request):
    return request.param


def make_pair(goal, ratio):
    """Return our row and the other one."""
    ours = make_row(goal, 1.0, provider=OURS, best_ms=2.0)
    return [ours, make_row(goal, ratio, best_ms=2.0 * ratio)]


def threshold(goal):
    return 1 / goal.limit if goal.at_most else goal.limit


def test_goal_is_met_just_above_its_limit_and_missed_just_below(number):
    goal = make_goals()[number]
    above = judge_all(make_pair(goal, 1.01 * threshold(goal)))[number]
    below = judge_all(make_pair(goal, 0.99 * threshold(goal)))[number]
    assert (above.met, below.met) == (True, False)
    assert above.low < above.measured < above.high
    assert above.best == pytest.approx(above.measured)


def test_memory_is_judged_without_the_results():
    goals = make_goals()
    number = next(i for i, goal in enumerate(goals) if goal.kind == "extra_mib")
    goal = goals[number]
    for extra, met in ((63.0, True), (65.0, False), (None, None)):
        peak = None if extra is None else goal.returned_mib + extra
        row = make_row(goal, 1.0, provider=OURS, peak_memory_mib=peak)
        verdict = judge_all([row])[number]
        assert verdict.met is met
        assert verdict.measured == (None if extra is None else pytest.approx(extra))


def test_fastest_of_the_others_decides():
    goals = make_goals()
    number = next(i for i, goal in enumerate(goals) if len(goal.providers) > 1)
    goal = goals[number]
    first, second = goal.providers[:2]
    rows = [make_row(goal, 1.0, provider=OURS), make_row(goal, 1000.0, provider=first)]
    rows.append(make_row(goal, 1.0, provider=second))
    assert judge_all(rows)[number].met is False


@pytest.mark.parametrize("change", [{"shape": "8x50257"}, {"mask_share": 0.5}, {"ratio": None}])
def test_other_cases_do_not_count(number, change):
    goal = make_goals()[number]
    ours = make_row(goal, 1.0, provider=OURS)
    verdict = judge_all([ours, make_row(goal, **({"ratio": 1000.0} | change))])[number]
    assert verdict.met is None
    assert verdict.measured is None


def test_table_says_what_was_not_measured():
    out = io.StringIO()
    print_goals(judge_all([]), out)
    assert out.getvalue().count("not measured in this run") == len(make_goals())

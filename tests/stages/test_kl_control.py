"""The adaptive KL coefficient against numbers worked out by hand (detail 26)."""

import pytest

from toolkit.spec.schema import Kl
from toolkit.stages.kl_control import KlControl

ADAPTIVE = Kl(coef=0.1, controller="adaptive", target=6.0, horizon=10000)


@pytest.mark.parametrize(
    ("kl", "episodes", "expected"),
    [
        (6.0, 512, 0.1),  # on target
        (6.6, 500, 0.1005),  # 1 + 0.1 * 500 / 10000
        (12.0, 500, 0.101),  # the error of 1.0 counts as 0.2
        (0.0, 500, 0.099),  # that of -1.0 as -0.2
        (-3.0, 500, 0.099),
        (5.4, 1000, 0.099),  # 1 - 0.1 * 1000 / 10000
    ],
)
def test_the_coefficient_moves_by_the_clipped_error_times_episodes_over_horizon(
    kl, episodes, expected
):
    control = KlControl(ADAPTIVE)
    control.update(kl, episodes)
    assert control.now.coef == pytest.approx(expected, rel=1e-12)


def test_updates_multiply():
    control = KlControl(ADAPTIVE)
    for _ in range(3):
        control.update(60.0, 1000)
    assert control.now.coef == pytest.approx(0.1 * 1.02**3, rel=1e-12)


def test_a_fixed_coefficient_stays():
    control = KlControl(Kl(coef=0.1))
    control.update(60.0, 1000)
    assert control.now == Kl(coef=0.1)


def test_a_restored_controller_goes_on_where_it_was():
    first, second = KlControl(ADAPTIVE), KlControl(ADAPTIVE)
    first.update(60.0, 1000)
    second.restore(first.state())
    for control in (first, second):
        control.update(3.0, 500)
    assert second.now == first.now

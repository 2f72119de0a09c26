"""The harness tells slow from fast, wrong from right, and missing from measured."""

import math

import pytest
import torch

from rlhf_kernels.bench.cases import OURS, Provider, Settings
from rlhf_kernels.bench.harness import compare, find_limit, measure, percentiles, run_rounds
from rlhf_kernels.bench.harness import warm_up as warm_up_provider
from tests.bench.samples import MACHINE, SETTINGS, SLOWER, broken, make_case, right, slow, wrong


def measure_by_name(case, settings=SETTINGS):
    return {row.provider: row for row in measure(case, settings, MACHINE)}


def test_planted_slow_provider_shows_as_slow():
    rows = measure_by_name(make_case(Provider(name="slow", run=slow)))
    assert rows["slow"].median_ms >= 1e3 * SLOWER
    assert rows["slow"].ratio_p10 > 2
    assert rows["slow"].max_error == 0
    assert rows[OURS].ratio == 1


def test_planted_wrong_provider_shows_its_errors():
    rows = measure_by_name(make_case(Provider(name="wrong", run=wrong)))
    assert rows["wrong"].max_error == 0.25
    assert rows["wrong"].max_grad_error == pytest.approx(0.01, rel=1e-5)
    assert rows[OURS].max_error == 0
    assert rows[OURS].max_grad_error == 0


def test_nan_counts_as_infinitely_wrong():
    error, _ = compare({"y": torch.tensor([math.nan, 1.0])}, {"y": torch.tensor([1.0, 1.0])})
    assert error == math.inf


def test_leading_rows_of_a_long_result_are_compared_with_a_short_truth():
    error, grad_error = compare({"y": torch.tensor([1.0, 2.0, 9.0])}, {"y": torch.ones(2)})
    assert error == 1
    assert grad_error is None


def test_missing_provider_is_a_row_with_its_reason():
    case = make_case(Provider(name="liger", run=None, note="liger is not installed"))
    row = measure_by_name(case)["liger"]
    assert row.note == "liger is not installed"
    assert row.median_ms is None
    assert row.ratio is None


def test_failing_provider_is_a_row_with_one_line():
    row = measure_by_name(make_case(Provider(name="broken", run=broken)))["broken"]
    assert row.note == "failed: RuntimeError: no compiler"


def test_failure_of_ours_is_not_hidden():
    with pytest.raises(RuntimeError, match="no compiler"):
        measure(make_case(providers=[Provider(name=OURS, run=broken)]), SETTINGS, MACHINE)


def test_quick_leaves_out_compiled_providers_unless_asked_for():
    compiled = Provider(name="torch.compile", run=right, compiled=True)
    quick = Settings(seconds=0.02, quick=True)
    assert "--quick" in measure_by_name(make_case(compiled), quick)["torch.compile"].note
    asked = Settings(seconds=0.02, quick=True, providers=("torch.*",))
    assert measure_by_name(make_case(compiled), asked)["torch.compile"].median_ms is not None


def test_providers_option_always_keeps_ours():
    rows = measure_by_name(
        make_case(Provider(name="eager", run=right), Provider(name="slow", run=slow)),
        Settings(seconds=0.02, providers=("eager",)),
    )
    assert rows[OURS].median_ms is not None
    assert rows["eager"].median_ms is not None
    assert rows["slow"].note == "not asked for by --providers"


def test_restoring_runs_before_every_call_and_is_not_timed():
    calls = []

    def prepare():
        calls.append("prepare")
        slow()

    def run():
        calls.append("run")
        return right()

    case = make_case(providers=[Provider(name=OURS, run=run, prepare=prepare)])
    (row,) = measure(case, SETTINGS, MACHINE)
    assert calls == ["prepare", "run"] * (len(calls) // 2)
    assert row.median_ms < 1e3 * SLOWER


def test_cpu_clock_leaves_out_time_in_which_others_run():
    settings = Settings(seconds=0.02, clock="cpu")
    row = measure_by_name(make_case(Provider(name="sleeps", run=slow)), settings)["sleeps"]
    assert row.clock == "cpu"
    assert row.median_ms < 1e3 * SLOWER


def test_rounds_interleave_and_rotate_the_order():
    order = []
    runners = []
    for name in "abc":
        provider = Provider(name=name, run=lambda n=name: order.append(n) or right())
        runner = warm_up_provider(provider, right())
        runner.calls_per_sample = 1
        runners.append(runner)
    order.clear()
    run_rounds(runners, seconds=0.0, cold=False)
    assert "".join(order[:9]) == "abcbcacab"
    assert {len(runner.samples) for runner in runners} == {len(order) // 3}


def test_percentiles_of_known_numbers():
    assert percentiles(float(x) for x in range(101)) == (50.0, 10.0, 90.0)


def test_limit_pairs_each_write_with_a_read():
    # 100 bytes written with 100 of the 300 read at 5 GB/s, the other 200 read at 10 GB/s.
    case = make_case(bytes_read=300.0, bytes_written=100.0)
    assert find_limit(case, MACHINE) == pytest.approx((200 / 5 + 200 / 10) / 1e9)

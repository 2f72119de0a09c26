"""The GPU's way to measure, with a clock that needs none."""

import dataclasses
import itertools

import pytest
import torch

from rlhf_kernels.bench import device_harness
from rlhf_kernels.bench.cases import OURS, ROUNDS, Provider, Settings
from rlhf_kernels.bench.device_harness import measure_on_device
from rlhf_kernels.bench.harness import compare
from tests.bench.clocks import FakeClock
from tests.bench.samples import MACHINE, broken, make_case, right

GPU = dataclasses.replace(
    MACHINE, device="NVIDIA H200", driver="580.1", cuda="13.0", l2_mib=1.0, read_gb_s=None
)
SETTINGS = Settings(device="cuda")


def takes(seconds):
    return lambda: right() | {"seconds": torch.tensor(seconds)}


def measure(case, clock=None, machine=GPU):
    rows = measure_on_device(
        case, SETTINGS, machine, clock or FakeClock(), lambda: (1980.0, 3201.0)
    )
    return {row.provider: row for row in rows}


def make_timed_case(*others, ours=2e-3, **changes):
    return make_case(providers=[Provider(name=OURS, run=takes(ours)), *others], **changes)


def test_ratio_is_formed_pair_by_pair():
    drift = itertools.count()
    common = {}

    def slower_and_slower(factor):
        def run():
            number = next(drift) // 2
            common.setdefault(number, 1e-3 * (1 + number))
            return right() | {"seconds": torch.tensor(factor * common[number])}

        return run

    case = make_case(
        providers=[
            Provider(name=OURS, run=slower_and_slower(1.0)),
            Provider(name="twice", run=slower_and_slower(2.0)),
        ]
    )
    row = measure(case)["twice"]
    # The device slows down by a multiple; only a ratio inside the round does not see it.
    assert row.p90_ms > 2 * row.p10_ms
    assert row.ratio == pytest.approx(2, rel=0.1)


def test_every_provider_has_at_least_fifty_samples_and_the_clocks():
    rows = measure(make_timed_case(Provider(name="eager", run=takes(4e-3))))
    assert rows["eager"].runs == ROUNDS >= 50
    assert rows["eager"].clock == "events"
    assert rows["eager"].median_ms == pytest.approx(4)
    assert (rows[OURS].sm_mhz, rows[OURS].memory_mhz) == (1980.0, 3201.0)
    assert rows[OURS].peak_memory_mib == 3


def test_a_case_of_long_calls_asks_for_fewer_rounds():
    assert measure(make_timed_case(rounds=7))[OURS].runs == 7


def test_long_calls_have_no_graph_and_short_ones_have_both_times():
    rows = measure(make_timed_case(Provider(name="short", run=takes(2e-5))))
    assert rows[OURS].graph_ms is None
    assert rows[OURS].host_ms is None
    assert rows["short"].graph_ms == pytest.approx(0.02)
    assert rows["short"].host_ms == pytest.approx(0.12)


def test_the_host_time_of_a_call_that_overwrites_is_a_median():
    class FirstIsSlow(FakeClock):
        rounds = 0

        def time_host(self, calls):
            self.rounds += 1
            return super().time_host(calls) + (1e-3 if self.rounds == 1 else 0.0)

    clock = FirstIsSlow()
    own = Provider(name=OURS, run=takes(2e-5), prepare=lambda: None)
    assert measure(make_case(providers=[own]), clock)[OURS].host_ms == pytest.approx(0.12)
    assert clock.rounds == device_harness.HOST_CALLS


def test_a_call_that_no_graph_can_hold_says_so_and_keeps_its_time():
    row = measure(make_timed_case(ours=2e-5), FakeClock(graphs=False))[OURS]
    assert row.graph_ms is None
    assert row.median_ms == pytest.approx(0.02)
    assert "no graph: RuntimeError: operation not permitted" in row.note


def test_missing_and_failing_providers_are_rows_and_ours_is_not_hidden():
    rows = measure(
        make_timed_case(
            Provider(name="gone", run=None, note="gone is not installed"),
            Provider(name="broken", run=broken),
        )
    )
    assert rows["gone"].note == "gone is not installed"
    assert rows["gone"].copies is None
    assert rows["broken"].note == "failed: RuntimeError: no compiler"
    with pytest.raises(RuntimeError, match="no compiler"):
        measure(make_case(providers=[Provider(name=OURS, run=broken)]))


def count_uses(bytes_read):
    """Return which copies ran, in order, and how often each was restored before each run."""
    ran, restored = [], []
    numbers = itertools.count()

    def build():
        number = next(numbers)

        def run():
            ran.append(number)
            return right() | {"seconds": torch.tensor(2e-3)}

        provider = Provider(name=OURS, run=run, prepare=lambda: restored.append(number))
        return make_case(
            providers=[provider], bytes_read=bytes_read, bytes_written=0.0, again=build
        )

    row = measure(build())[OURS]
    return row, ran, restored


def test_inputs_smaller_than_the_cache_rotate():
    row, ran, restored = count_uses(bytes_read=1.0 * 2**20)
    assert row.copies == 4
    assert sorted(set(ran)) == [0, 1, 2, 3]
    assert ran[-ROUNDS:] == [0, 1, 2, 3] * (ROUNDS // 4)
    assert sorted(ran) == sorted(restored)


def test_large_inputs_are_not_copied():
    row, ran, _ = count_uses(bytes_read=1e9)
    assert row.copies == 1
    assert set(ran) == {0}


def test_a_group_is_restored_before_its_first_call_is_timed():
    events = []

    def build():
        provider = Provider(
            name=OURS,
            run=lambda: events.append("run") or right() | {"seconds": torch.tensor(2e-3)},
            prepare=lambda: events.append("restore"),
        )
        return make_case(providers=[provider], bytes_read=2.0**20, bytes_written=0.0, again=build)

    measure(build())
    tail = events[-2 * ROUNDS :]
    assert tail == (["restore"] * 4 + ["run"] * 4) * (ROUNDS // 4)


@pytest.mark.parametrize(("read", "share"), [(None, None), (10.0, True)])
def test_share_of_the_roofline_needs_the_rate_of_the_reads(read, share):
    case = make_timed_case(bytes_read=1e9, bytes_written=1e6)
    row = measure(case, machine=dataclasses.replace(GPU, read_gb_s=read))[OURS]
    if share is None:
        assert row.roofline_share is None
    else:
        limit = 2e6 / 5e9 + (1e9 - 1e6) / 10e9
        assert row.roofline_share == pytest.approx(limit / 2e-3)


def test_inputs_that_stay_in_the_cache_have_no_share_of_the_roofline():
    machine = dataclasses.replace(GPU, read_gb_s=10.0)
    assert measure(make_timed_case(bytes_read=8.0), machine=machine)[OURS].roofline_share is None


def test_short_truth_and_short_results_are_compared_where_both_have_rows():
    error, _ = compare({"y": torch.tensor([1.0, 2.0])}, {"y": torch.tensor([1.0, 2.5, 9.0])})
    assert error == 0.5


def test_compiling_stops_when_the_budget_is_used_up():
    compiled = Provider(name="torch.compile", run=takes(1e-3), compiled=True)
    case = make_timed_case(compiled)
    late = dataclasses.replace(SETTINGS, deadline=0.0)
    rows = measure_on_device(case, late, GPU, FakeClock(), lambda: (None, None))
    assert "--budget" in rows[1].note
    assert rows[0].sm_mhz is None


def test_graph_calls_go_round_the_copies_and_overwritten_ones_are_used_once():
    assert device_harness.GRAPH_CALLS <= 64
    used = []
    clock = FakeClock()
    copies = [
        Provider(name=OURS, run=lambda n=n: used.append(n) or takes(1e-5)(), prepare=list)
        for n in range(5)
    ]
    runner = device_harness.warm_up_on_device(copies[0], right(), clock)
    used.clear()
    device_harness.time_short_calls(runner, copies, clock)
    assert used == [*range(5)] * (device_harness.HOST_CALLS // 5 + 1)

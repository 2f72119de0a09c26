"""Time providers side by side on a GPU: rotated inputs, device events, graphs for short calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import cycle, islice

from rlhf_kernels.bench.cases import Case, Provider, Results, Settings
from rlhf_kernels.bench.device_clock import Call, DeviceClock
from rlhf_kernels.bench.harness import (
    WARM_UP_CALLS,
    Runner,
    compare,
    find_limit,
    first_line,
    make_rows,
    start_providers,
)
from rlhf_kernels.bench.machine import Machine
from rlhf_kernels.bench.rotation import count_copies, outgrows_cache, plan_turns
from rlhf_kernels.bench.rows import Row

#: Calls shorter than this are also measured as graphs and by the host's clock.
SHORT_SECONDS = 1e-3
GRAPH_CALLS = 32
HOST_CALLS = 50

ReadClocks = Callable[[], tuple[float | None, float | None]]


def measure_on_device(
    case: Case,
    settings: Settings,
    machine: Machine,
    clock: DeviceClock,
    read_clocks: ReadClocks,
) -> list[Row]:
    """Measure every provider of a case on a GPU; one row each, also for those that cannot run.

    Args:
        case: what is measured; its inputs are copied until they outgrow the cache.
        settings: which providers are asked for.
        machine: its cache and its rates.
        clock: times calls; a test passes one of its own.
        read_clocks: returns the clocks of the device in MHz, None where they cannot be read.
    """

    def warm_up(provider: Provider, truth: Results) -> Runner:
        return warm_up_on_device(provider, truth, clock)

    runners, reasons = start_providers(case, settings, warm_up)
    moved = case.bytes_read + case.bytes_written
    cache = int((machine.l2_mib or 0.0) * 2**20)
    copies = copy_providers(case, count_copies(moved, cache))
    running = list(runners.values())
    take_rounds(running, copies, clock, case.rounds)
    clocks = read_clocks()  # while the device is still at the clocks of the work
    for runner in running:
        if sorted(runner.samples)[len(runner.samples) // 2] < SHORT_SECONDS:
            time_short_calls(runner, copies[runner.provider.name], clock)
    cold = outgrows_cache(len(next(iter(copies.values()))), moved, cache)
    limit = find_limit(case, machine) if cold else None
    extra = {
        "sm_mhz": clocks[0],
        "memory_mhz": clocks[1],
        "copies": len(next(iter(copies.values()))),
    }
    rows = make_rows(case, runners, reasons, limit, "events")
    return [dataclasses.replace(row, **extra) if row.runs else row for row in rows]


def warm_up_on_device(provider: Provider, truth: Results, clock: DeviceClock) -> Runner:
    """Call a provider for the first time and judge its results."""
    run = find_run(provider)
    restore(provider)
    first_call_s, results = clock.time_once(run)
    max_error, max_grad_error = compare(results, truth)
    del results
    for _ in range(WARM_UP_CALLS):
        restore(provider)
        run()
    restore(provider)
    return Runner(
        provider=provider,
        first_call_s=first_call_s,
        max_error=max_error,
        max_grad_error=max_grad_error,
        peak_memory_mib=clock.measure_peak_memory(run),
        calls_per_sample=1,
        samples=[],
    )


def find_run(provider: Provider) -> Callable[[], Results]:
    """Return what the provider runs; only those that can run come here."""
    assert provider.run is not None
    return provider.run


def restore(provider: Provider) -> None:
    """Restore what the provider's run overwrites."""
    if provider.prepare:
        provider.prepare()


def copy_providers(case: Case, count: int) -> dict[str, list[Provider]]:
    """Return the providers by name, each on `count` copies of the inputs.

    A case that cannot be built again has one copy.
    """
    cases = [case]
    if case.again:
        cases += [case.again() for _ in range(count - 1)]
    return {
        provider.name: [copy.providers[position] for copy in cases]
        for position, provider in enumerate(case.providers)
    }


def take_rounds(
    runners: Sequence[Runner],
    copies: dict[str, list[Provider]],
    clock: DeviceClock,
    rounds: int,
) -> None:
    """Add a sample per round to every runner.

    The first group runs once more, before: memory that it makes torch ask the system for must not
    be part of a sample.
    """
    count = len(copies[runners[0].provider.name])
    groups = list(plan_turns(len(runners), count, rounds))
    for number, group in enumerate([groups[0], *groups]):
        turns = [copies[runners[who].provider.name][copy] for who, copy in group]
        for provider in turns:
            restore(provider)
        times = clock.time_calls([find_run(provider) for provider in turns])
        for (who, _), seconds in zip(group, times, strict=True) if number else ():
            runners[who].samples.append(seconds)


def time_on_host(calls: Sequence[Call], prepare: Call, clock: DeviceClock) -> float:
    """Return the seconds per call as the host sees them, the median of rounds of HOST_CALLS in all.

    Each round starts on an idle device: one of a single call is its launches and then its kernels.
    """
    found = []
    for _ in range(-(-HOST_CALLS // len(calls))):
        prepare()
        found.append(clock.time_host(calls))
    return sorted(found)[len(found) // 2]


def time_short_calls(runner: Runner, copies: Sequence[Provider], clock: DeviceClock) -> None:
    """Add the time per call inside a graph, and that which the host sees; or why there is none."""

    def prepare() -> None:
        for provider in used:
            restore(provider)

    overwrites = runner.provider.prepare is not None
    used = list(copies[:GRAPH_CALLS])
    turns = used if overwrites else list(islice(cycle(used), GRAPH_CALLS))
    calls = [find_run(provider) for provider in turns]
    many = calls if overwrites else list(islice(cycle(calls), HOST_CALLS))
    runner.host_s = time_on_host(many, prepare, clock)
    prepare()
    try:
        runner.graph_s = clock.time_graph(calls, prepare if overwrites else None)
    except Exception as error:  # of packages too, each with its own; the row tells it
        runner.graph_note = f"no graph: {first_line(error)}"

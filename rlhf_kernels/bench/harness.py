"""Time providers side by side in one process and compare their results with float64.

Each round runs every provider once, in an order that rotates, and the ratio of two providers is
formed inside the round: a disturbance of the machine then meets both, and the median of the ratios
survives what neither time alone would. Compilation and warm-up are never timed with the rest.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from rlhf_kernels.bench.cases import OURS, Case, Provider, Results, Settings
from rlhf_kernels.bench.machine import (
    CLOCKS,
    COLD_BYTES,
    CacheFlusher,
    Clock,
    Machine,
    measure_peak_memory,
)
from rlhf_kernels.bench.rows import Row

MIN_ROUNDS = 5
MAX_ROUNDS = 60
WARM_UP_CALLS = 2
#: A timed sample is at least this long; shorter calls are repeated inside it.
SAMPLE_SECONDS = 5e-4


@dataclass
class Runner:
    """A provider that passed its warm-up, with what was measured of it so far."""

    provider: Provider
    first_call_s: float
    max_error: float | None
    max_grad_error: float | None
    peak_memory_mib: float | None
    calls_per_sample: int
    samples: list[float]
    graph_s: float | None = None
    host_s: float | None = None
    graph_note: str = ""


def measure(case: Case, settings: Settings, machine: Machine) -> list[Row]:
    """Measure every provider of a case; one row each, also for those that cannot run."""
    runners, reasons = start_providers(case, settings, warm_up)
    cold = case.bytes_read + case.bytes_written > COLD_BYTES / 4
    run_rounds(list(runners.values()), settings.seconds, cold, CLOCKS[settings.clock])
    limit = find_limit(case, machine) if cold else None
    return make_rows(case, runners, reasons, limit, settings.clock)


def start_providers(
    case: Case, settings: Settings, start: Callable[[Provider, Results], Runner]
) -> tuple[dict[str, Runner], dict[str, str]]:
    """Start every provider; return those that run, and for the others why they do not."""
    torch._dynamo.reset()  # otherwise every case counts against the same limit of recompilations
    truth = case.truth()
    runners: dict[str, Runner] = {}
    reasons: dict[str, str] = {}
    for provider in case.providers:
        why = find_reason_to_skip(provider, settings)
        if why:
            reasons[provider.name] = why
            continue
        try:
            runners[provider.name] = start(provider, truth)
        except Exception as error:
            if provider.name == OURS:
                raise
            reasons[provider.name] = f"failed: {first_line(error)}"
    return runners, reasons


def make_rows(
    case: Case,
    runners: dict[str, Runner],
    reasons: dict[str, str],
    limit: float | None,
    clock: str,
) -> list[Row]:
    """Return one row per provider, in their order."""
    return [
        make_row(case, runners[provider.name], runners[OURS], limit, clock)
        if provider.name in runners
        else make_empty_row(case, provider.name, reasons[provider.name])
        for provider in case.providers
    ]


def find_reason_to_skip(provider: Provider, settings: Settings) -> str:
    """Return why a provider does not run, or nothing."""
    if provider.run is None:
        return provider.note
    if not settings.wants(provider.name):
        return "not asked for by --providers"
    if provider.compiled and settings.is_late():
        return "not compiled: the time of --budget was used up"
    if provider.compiled and settings.quick and not settings.providers:
        return "left out by --quick, compiling takes longer than that; --providers asks for it"
    return ""


def first_line(error: Exception) -> str:
    """Return an error as one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:120] if lines else 'no message'}"


def warm_up(provider: Provider, truth: Results) -> Runner:
    """Call a provider for the first time, judge its results, and see how long a call takes."""
    first_call_s, results = timed_call(provider)
    max_error, max_grad_error = compare(results, truth)
    del results
    for _ in range(WARM_UP_CALLS):
        seconds, _ = timed_call(provider)
    if provider.prepare:
        provider.prepare()
    assert provider.run is not None
    return Runner(
        provider=provider,
        first_call_s=first_call_s,
        max_error=max_error,
        max_grad_error=max_grad_error,
        peak_memory_mib=measure_peak_memory(provider.run),
        # What a run overwrites is restored before each one, so those are timed one by one.
        calls_per_sample=1 if provider.prepare else 1 + int(SAMPLE_SECONDS / seconds),
        samples=[],
    )


def timed_call(provider: Provider) -> tuple[float, Results]:
    """Return the seconds of one restored call and its results."""
    assert provider.run is not None
    if provider.prepare:
        provider.prepare()
    start = time.perf_counter()
    results = provider.run()
    return time.perf_counter() - start, results


def compare(results: Results, truth: Results) -> tuple[float | None, float | None]:
    """Return the largest absolute error of the results and relative error of the gradients.

    Only names that both have are compared; a gradient's error is relative to the largest entry of
    its row. A result that is not finite where the truth is counts as infinitely wrong. A truth
    that is slow to compute may hold the leading rows only, and so may a result.
    """
    errors: list[float] = []
    grad_errors: list[float] = []
    for name in results.keys() & truth.keys():
        result = results[name].detach()
        want = truth[name].detach().double().to(result.device)
        if want.dim():
            leading = min(len(want), len(result))
            want, result = want[:leading], result[:leading]
        error = (result.double() - want).abs().nan_to_num(nan=float("inf"))
        if name.startswith("grad"):
            scale = want.abs().amax(-1, keepdim=True)
            error = error / torch.where(scale > 0, scale, 1.0)
            grad_errors.append(float(error.max()))
        else:
            errors.append(float(error.max()))
    return max(errors, default=None), max(grad_errors, default=None)


def run_rounds(
    runners: Sequence[Runner], seconds: float, cold: bool, clock: Clock = time.perf_counter
) -> None:
    """Run all providers in turn until the time is up; each round starts with another one.

    Args:
        runners: filled with one sample per round.
        seconds: after the minimum of rounds, stop when these have passed.
        cold: empty the caches before each sample, as inputs of this size never find them full of
            themselves in a run, and restoring an input would otherwise leave it there.
        clock: returns seconds.
    """
    flusher = CacheFlusher() if cold else None
    end = time.perf_counter() + seconds
    for number in range(MAX_ROUNDS):
        if number >= MIN_ROUNDS and time.perf_counter() > end:
            break
        for position in range(len(runners)):
            take_sample(runners[(position + number) % len(runners)], flusher, clock)


def take_sample(runner: Runner, flusher: CacheFlusher | None, clock: Clock) -> None:
    """Time one sample and add it, in seconds per call."""
    provider = runner.provider
    assert provider.run is not None
    if provider.prepare:
        provider.prepare()
    if flusher:
        flusher.flush()
    start = clock()
    for _ in range(runner.calls_per_sample):
        provider.run()
    runner.samples.append((clock() - start) / runner.calls_per_sample)


def percentiles(values: Iterable[float]) -> tuple[float, float, float]:
    """Return the median, the 10th and the 90th percentile."""
    ordered = sorted(values)
    tenths = statistics.quantiles(ordered, n=10, method="inclusive")
    return statistics.median(ordered), tenths[0], tenths[-1]


def make_empty_row(case: Case, provider: str, note: str) -> Row:
    """Return the row of a provider that did not run."""
    return Row(
        op=case.op,
        provider=provider,
        mode=case.mode,
        shape="x".join(map(str, case.shape)),
        N=case.N,
        V=case.V,
        D=case.D,
        dtype=str(case.dtype).removeprefix("torch."),
        mask_share=case.mask_share,
        bytes_model=case.bytes_read + case.bytes_written,
        note=note,
    )


def make_row(case: Case, runner: Runner, ours: Runner, limit: float | None, clock: str) -> Row:
    """Return the row of a provider that ran; `limit` is the seconds its bytes need at least."""
    median, p10, p90 = percentiles(runner.samples)
    pairs = (mine / base for mine, base in zip(runner.samples, ours.samples, strict=True))
    ratio, ratio_p10, ratio_p90 = percentiles(pairs)
    notes = [note for note in (runner.provider.note, runner.graph_note) if note]
    empty = make_empty_row(case, runner.provider.name, "; ".join(notes))
    measured = {
        "runs": len(runner.samples),
        "clock": clock,
        "median_ms": 1e3 * median,
        "p10_ms": 1e3 * p10,
        "p90_ms": 1e3 * p90,
        "best_ms": 1e3 * min(runner.samples),
        "graph_ms": to_ms(runner.graph_s),
        "host_ms": to_ms(runner.host_s),
        "ratio": ratio,
        "ratio_p10": ratio_p10,
        "ratio_p90": ratio_p90,
        "gb_per_s": empty.bytes_model / median / 1e9,
        "roofline_share": limit / median if limit else None,
        "peak_memory_mib": runner.peak_memory_mib,
        "max_error": runner.max_error,
        "max_grad_error": runner.max_grad_error,
        "first_call_s": runner.first_call_s,
    }
    return Row(**(vars(empty) | measured))


def to_ms(seconds: float | None) -> float | None:
    """Return milliseconds."""
    return None if seconds is None else 1e3 * seconds


def find_limit(case: Case, machine: Machine) -> float | None:
    """Return the seconds that the bytes of a case need at the bandwidth of this process.

    Each written byte is paired with a read one at the rate of an update; the rest is read. None
    where that rate was not measured.
    """
    paired = min(case.bytes_read, case.bytes_written)
    left = case.bytes_read + case.bytes_written - 2 * paired
    if machine.read_gb_s is None or machine.update_gb_s is None:
        return None
    return 2 * paired / (machine.update_gb_s * 1e9) + left / (machine.read_gb_s * 1e9)

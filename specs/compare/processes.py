"""Start a process for each stage of each competitor; keep what it reports."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toolkit.pipeline.machine import cpu_name
from toolkit.spec.load import load_spec

MODULES = {
    "ours": "specs.compare.our_stages",
    "trl": "specs.compare.trl_stages",
    "plain": "specs.compare.plain_stages",
    "tasks": "specs.compare.tasks",
    "evaluate": "specs.compare.evaluate",
}
Result = dict[str, Any]


class Unfinished(SystemExit):
    """A process that failed, or was stopped at the limit.

    Args:
        what: system and stage.
        log: its output.
        limit: the limit that it reached, or None where it failed.
    """

    def __init__(self, what: str, log: Path, limit: float | None) -> None:
        lines = log.read_text(encoding="utf-8").splitlines()
        last = next((line for line in reversed(lines) if line.strip()), "no output")
        self.note = f"failed: {last.strip()[:160]}"
        if limit is not None:
            self.note = f"stopped after {limit:g} s"
        tail = "\n".join(lines[-15:])
        super().__init__(f"{what} {self.note.partition(':')[0]}, the end of {log}:\n{tail}")


class Bench:
    """Where results go, how many threads there are, and whose Python runs whom.

    Args:
        out: folder of everything written, emptied task by task.
        threads: threads of every process.
        pythons: system -> its Python; the others run in this one.
        device: "cpu" or "cuda", where models are.
        limit: seconds after which a process is stopped; None for never.
    """

    def __init__(
        self,
        out: Path,
        threads: int,
        pythons: dict[str, str],
        *,
        device: str = "cpu",
        limit: float | None = None,
    ) -> None:
        self.out, self.threads, self.pythons = out, threads, pythons
        self.device, self.limit, self.gpu = device, limit, ""
        self.settings: dict[tuple[str, str], dict[str, Any]] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.load = os.getloadavg()[0]
        for name, python in pythons.items():
            if shutil.which(python) is None:
                raise SystemExit(f"--{name}: there is no {python}; `make bench-trl` makes it")

    def describe(self) -> str:
        """Say where this runs, and whether something else runs too."""
        busy = f"; load {self.load:.1f} at the start"
        warning = " (something else is running: times will be too long)" if self.load > 0.5 else ""
        cores = len(os.sched_getaffinity(0))
        return f"{cpu_name()}, {cores} cores, {self.threads} threads{busy}{warning}"

    def clear(self, folder: Path) -> Path:
        """Empty a task's folder."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def run(self, system: str, job: dict[str, Any], name: str) -> Result:
        """Run one job to its end and return its result.

        Raises:
            Unfinished: the process failed or was stopped; the message shows the end of its log.
        """
        out = Path(job["out"])
        out.mkdir(parents=True, exist_ok=True)
        file, log = out / "job.json", out / "log.txt"
        file.write_text(json.dumps({**job, "device": self.device}, indent=1), encoding="utf-8")
        command = [self.pythons.get(system, sys.executable), "-m", MODULES[system], str(file)]
        started = time.perf_counter()
        with log.open("w", encoding="utf-8") as stream:
            child = subprocess.Popen(
                command,
                env=self._environment(),
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = child.wait(self.limit)
            except BaseException as stop:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                if not isinstance(stop, subprocess.TimeoutExpired):
                    raise
                code = None
        if code != 0:
            raise Unfinished(f"{system}: {job['stage']}", log, None if code else self.limit)
        result: Result = json.loads((out / "result.json").read_text(encoding="utf-8"))
        result["process_seconds"] = time.perf_counter() - started
        self.versions[system] = result["versions"]
        self.gpu = result.get("gpu", self.gpu)
        there = f", {result['gpu_peak'] / 1e9:.2f} GB on the GPU" if "gpu_peak" in result else ""
        print(
            f"{name:<34} {result['seconds']:7.1f} s  {result['peak'] / 1e9:5.2f} GB "
            f"({result['imports'] / 1e9:.2f} GB before any work){there}, "
            f"process {result['process_seconds']:.0f} s",
            flush=True,
        )
        return result

    def _environment(self) -> dict[str, str]:
        root = str(Path(__file__).resolve().parents[2])
        before = os.environ.get("PYTHONPATH")
        return {
            "OMP_WAIT_POLICY": "PASSIVE",
            **os.environ,
            "OMP_NUM_THREADS": str(self.threads),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": f"{root}{os.pathsep}{before}" if before else root,
        }


def resolved(spec_file: str, overrides: list[str]) -> dict[str, Any]:
    """Return the resolved spec as plain values."""
    return asdict(load_spec(spec_file, overrides).spec)

"""The runs of the miniature: what each needs, and that they run in that order."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from specs.miniature import __main__ as command
from specs.miniature.variants import Job, jobs
from toolkit.pipeline.decide import chosen_nodes
from toolkit.spec.load import load_spec

ROOT = Path(__file__).resolve().parents[2]
SHORT = (
    "data.task.demonstrations=300", "data.task.prompts=400", "data.task.valid_prompts=200",
    "data.task.pretrain=3000", "pretrain.steps=30", "sft.epochs=1", "collect.prompts=96",
    "reward.gate=null", "ppo.episodes=256", "ppo.init.sft_epochs=1", "ppo.ema=0.5",
    "evaluate.skills=12",
)  # fmt: skip


def test_every_job_needs_jobs_before_it() -> None:
    seen: set[tuple[int, str]] = set()
    for job in jobs([1, 2], [1], Path("out")):
        assert {(job.seed, need) for need in job.needs} <= seen
        seen.add((job.seed, job.key))
    names = {job.name for job in jobs([1], [1], Path("out"))}
    assert {"ptx", "ppo", "large", "prompts", "pairs", "ptx-27.8", "kl-2"} <= names
    assert "kl-2" not in {job.name for job in jobs([1], [], Path("out"))}


def test_every_job_is_a_sound_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for job in jobs([1], [1], tmp_path):
        words = job.arguments(tmp_path, [])
        until = words[words.index("--until") + 1] if "--until" in words else None
        own = [w for w in words if "=" in w]
        spec = load_spec("specs/miniature.yaml", own, files=False).spec
        assert chosen_nodes(spec, until)
        assert spec.out == str(tmp_path / "seed1" / job.name)


def test_what_a_variant_switches_off_stays_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    large = next(j for j in jobs([1], [], Path("out")) if j.key == "large")
    words = large.arguments(Path("out"), SHORT)
    assert load_spec("specs/miniature.yaml", words, files=False).spec.ppo is None


def test_the_large_model_has_ten_times_the_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = {}
    for job in jobs([1], [], Path("out")):
        over = [w for w in job.overrides if w.startswith("models.base.config")]
        found[job.name] = load_spec("specs/miniature.yaml", over).spec.models.base.config
    small, large = (_parameters(found[name]) for name in ("ptx", "large"))
    assert 9.5 < large / small < 10.5


def _parameters(config: dict) -> int:
    """Blocks, positions and 284 tokens; biases and norms are left out."""
    width = config["n_embd"]
    return 12 * config["n_layer"] * width**2 + (284 + config["n_positions"]) * width


def test_jobs_wait_for_what_they_need_and_a_failure_stops(tmp_path: Path, monkeypatch) -> None:
    calls: list[str] = []

    def start(job: Job, out: Path, more: list[str]) -> command.Running:
        calls.append(job.key)
        log = tmp_path / "log"
        log.write_text("it broke")
        code = "raise SystemExit(3)" if job.name == "bad" else ""
        process = command.subprocess.Popen([sys.executable, "-c", code])
        return command.Running(job, process, 0.0, log)

    monkeypatch.setattr(command, "start", start)
    todo = [Job(1, "last", needs=("first",)), Job(1, "first")]
    assert command.run_all(todo, tmp_path, [], 2, []) is None
    assert calls == ["first", "last"]
    todo = [Job(1, "bad"), Job(1, "after", needs=("bad",))]
    assert command.run_all(todo, tmp_path, [], 2, []) == 3
    assert "after" not in calls


@pytest.mark.slow
def test_a_shortened_miniature_ends_in_one_page(tmp_path: Path) -> None:
    more = ["--seeds", "5", "--sweep", "5", "--out", str(tmp_path), *SHORT]
    assert command.main(more) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    names = {model["name"] for model in report["models"]}
    assert {"base", "prompted", "sft", "ptx", "ppo", "large base", "large sft"} <= names
    assert {s["path"] for s in report["sweeps"]} == {"ppo.ptx.coef", "ppo.kl.coef"}
    assert {m["element"] for m in report["reward"]} == {"prompt", "pair"}
    assert report["prompts"] == 200
    assert (tmp_path / "report.html").read_text().count("<svg") >= 6
    from specs.miniature.findings import markdown

    assert "| order of models by preference |" in markdown(report)
    folder = tmp_path / "seed5"
    parts = [folder / name / "stages/sft/model/model.safetensors" for name in ("ptx", "ppo")]
    assert parts[0].samefile(parts[1])

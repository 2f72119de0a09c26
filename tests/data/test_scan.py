"""The scan behind check and plan: no torch, and kept until something it depends on changes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from toolkit.data.scan import scan
from toolkit.spec.schema import Data, Folds, Label, Labelers, Spec, Task


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", ["sort", "facts"])
def test_a_scan_imports_no_torch_and_no_transformers(name: str, root: Path) -> None:
    program = (
        "import sys\n"
        "from toolkit.data.scan import scan\n"
        "from toolkit.spec.schema import Data, Spec, Task\n"
        f"found = scan(Spec(data=Data(task=Task(name={name!r}))))\n"
        "assert found.counts['prompts']['train'] == 8192, found\n"
        "loaded = {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_scan_is_kept_until_the_file_changes(write, spec_of) -> None:
    path = write("p.jsonl", {"prompt": "one"})
    spec = replace(spec_of(prompts=path), evaluate=None)
    first, second = scan(spec), scan(spec)
    assert (first.cached, second.cached) == (False, True)
    assert second.counts == first.counts
    assert second.warnings == first.warnings
    Path(path).write_text('{"prompt": "two"}\n')  # as many bytes as before
    assert not scan(spec).cached


def test_a_scan_is_kept_until_the_settings_change(write, spec_of) -> None:
    spec = replace(spec_of(prompts=write("p.jsonl", {"prompt": "one"})), evaluate=None)
    assert not scan(spec).cached
    assert not scan(
        replace(spec, text=replace(spec.text, max_prompt=2, template="{prompt}{response}"))
    ).cached
    assert scan(spec).cached


def test_a_damaged_cache_is_scanned_again(cache: Path) -> None:
    spec = Spec(data=Data(task=Task(name="sort", demonstrations=10, prompts=10, valid_prompts=10)))
    assert not scan(spec).cached
    (kept,) = cache.rglob("*.json")
    kept.write_text("{")
    assert not scan(spec).cached


def test_a_scan_works_where_nothing_can_be_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    spec = Spec(data=Data(task=Task(name="sort", demonstrations=10, prompts=10, valid_prompts=10)))
    assert scan(spec).counts["demonstrations"]["train"] == 10


def test_nothing_held_out_is_a_problem_while_the_run_evaluates(write, spec_of) -> None:
    spec = spec_of(prompts=write("p.jsonl", {"prompt": "one"}))
    (problem,) = scan(spec).problems
    assert "no prompts are held out, so nothing can be evaluated" in problem.message
    assert not scan(replace(spec, evaluate=None)).problems
    assert scan(spec).problems  # what was kept of the spec without does not hide it


def test_folds_ask_for_a_labeler_in_the_records_for_each_group(write, spec_of) -> None:
    rows = [
        {"prompt": f"p{at}", "responses": ["a", "b"], "ranks": [1, 2], "labeler": f"l{at % 2}"}
        for at in range(6)
    ]
    path = write("r.jsonl", *rows, {"prompt": "q", "chosen": "a", "rejected": "b"})
    spec = replace(spec_of(rankings=path), evaluate=None)
    assert not scan(spec).problems
    assert not scan(replace(spec, folds=Folds(count=2))).problems
    (problem,) = scan(replace(spec, folds=Folds(count=3))).problems
    assert (problem.file, problem.path) == (path, "labeler")
    assert "folds.count 3 asks for as many labelers, and the records name 2" in problem.message
    assert not scan(replace(spec, folds=Folds(count=3), label=Label(labelers=Labelers()))).problems
    assert not scan(replace(spec, folds=Folds(count=3), label=Label(by="people"))).problems


@pytest.mark.parametrize(
    "body",
    ["def make(settings):\n    raise RuntimeError('no world')\n",
     "from toolkit.data.tasks.sort import Sort\n"
     "class World(Sort):\n    def prompts(self):\n        raise RuntimeError('no world')\n"
     "def make(settings):\n    return World(settings)\n"],
)  # fmt: skip
def test_a_task_of_your_own_that_raises_is_a_problem_with_its_place(
    tmp_path: Path, body: str
) -> None:
    (tmp_path / "task.py").write_text(body)
    reference = f"{tmp_path / 'task.py'}:make"
    (problem,) = scan(Spec(data=Data(task=Task(fn=reference, demonstrations=20)))).problems
    line = 1 + body[: body.index("raise")].count("\n")
    assert problem.path == "data.task.fn"
    assert problem.message == (
        f"{reference} raised RuntimeError: no world ({tmp_path / 'task.py'}:{line}); mend it"
    )

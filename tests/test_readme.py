"""The README tells the truth: its commands exist, the quick ones run, its spec and code work."""

import re
import shlex
import subprocess
import sys

import pytest

from tests.stub_model import make_stub_model
from toolkit.cli.parser import COMMANDS
from toolkit.spec.load import load_spec

QUICK = {"check", "show", "details", "plan", "doctor", "new"}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def readme(root) -> str:
    return (root / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def commands(readme) -> list[list[str]]:
    lines = [line for block in blocks(readme, "sh") for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_the_readme_is_short_and_shows_commands(readme, commands):
    assert len(readme.splitlines()) <= 150
    assert ["make", "demo"] in commands
    assert ["make", "test"] in commands


def test_every_make_target_exists(commands, root):
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    named = {words[1] for words in commands if words[0] == "make"}
    assert named
    assert named <= targets


def test_every_toolkit_command_exists(commands):
    named = {words[3] for words in commands if words[:3] == ["python", "-m", "toolkit"]}
    assert {"run", "report"} <= named
    assert named <= set(COMMANDS)


def test_the_quick_commands_run(commands, root, tmp_path):
    (tmp_path / "specs").symlink_to(root / "specs")
    quick = [
        words for words in commands if words[-1] == "--help" or (words[3:4] and words[3] in QUICK)
    ]
    assert len(quick) >= 5
    for words in quick:
        done = subprocess.run(
            [sys.executable, *words[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
        assert done.stdout or done.stderr


def test_the_spec_of_the_readme_loads(readme, tmp_path, monkeypatch):
    (spec,) = blocks(readme, "yaml")
    (tmp_path / "my.yaml").write_text(spec, encoding="utf-8")
    for path in re.findall(r"path: ([\w/.-]+)", spec):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        if path.startswith("models/"):
            make_stub_model(tmp_path / path, model_type="gpt_neox")
        else:
            (tmp_path / path).touch()
    (tmp_path / "judge.py").write_text("def score(prompts, responses):\n    return [0.0]\n")
    monkeypatch.chdir(tmp_path)
    loaded = load_spec("my.yaml", [])
    assert loaded.spec.name == "helpful"
    assert loaded.spec.ppo.ptx.coef == 27.8


def test_the_code_of_the_readme_runs(readme):
    (code,) = blocks(readme, "python")
    names: dict[str, object] = {}
    exec(code, names)
    assert names["logprobs"].shape == (8,)


def test_every_file_the_readme_names_exists(readme, root):
    named = re.findall(r"`((?:docs|specs|toolkit|csrc)/[\w/.-]+|[A-Z]+\.md)`", readme)
    assert len(named) > 4
    missing = [name for name in named if not (root / name).exists()]
    assert not missing

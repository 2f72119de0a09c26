"""What the commands print and return."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from toolkit.__main__ import main
from toolkit.cli import new
from toolkit.cli.new import shipped_specs
from toolkit.cli.parser import COMMANDS, overview
from toolkit.spec.errors import GateFailed
from toolkit.spec.load import examine_spec, load_spec

SOUND = "extends: tiny\nname: x\ndata: {task: {name: sort}}\ntext: {max_prompt: 6}\n"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("spec.yaml").write_text(SOUND, encoding="utf-8")


def test_help_lists_the_commands_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert shown == overview() + "\n"
    assert all(f"  {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_of_a_command_teaches(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    assert f"usage: python -m toolkit {name}" in shown
    assert f"examples:\n  python -m toolkit {name}" in shown
    assert "exit codes:" in shown


def test_an_unknown_command_is_corrected(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chekc"]) == 2
    assert capsys.readouterr().err == 'unknown command chekc; did you mean "check"?\n'


def test_no_command_shows_the_overview_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().out


def test_check_of_a_sound_spec_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "spec.yaml"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("spec.yaml: no problems\n")
    assert captured.err == ""


def test_check_prints_problems_on_stderr_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "spec.yaml", "ppo.kl.coeff=1", "--json", "sft.epochs=0"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert not document["ok"]
    assert {problem["path"] for problem in document["problems"]} == {"ppo.kl.coeff", "sft.epochs"}
    assert main(["check", "spec.yaml", "ppo.kl.coeff=1"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        'command line  ppo.kl.coeff  unknown key; did you mean "coef"?\n'
        "1 problem; nothing was run\n"
    )


def test_check_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json", "spec.yaml"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert (document["ok"], document["problems"], captured.err) == (True, [], "")


def test_check_reports_bad_data_with_exit_code_3(capsys: pytest.CaptureFixture[str]) -> None:
    Path("prompts.jsonl").write_text('{"prompt": "a"}\n{"promt": "b"}\n', encoding="utf-8")
    Path("spec.yaml").write_text(
        "extends: tiny\ndata: {prompts: {path: prompts.jsonl}, demonstrations: {path: d.jsonl}}\n"
        "text: {tokenizer: tokenizer}\nlabel: {fn: 'oracle.py:score'}\n",
        encoding="utf-8",
    )
    Path("d.jsonl").write_text('{"prompt": "a", "response": "b"}\n' * 20, encoding="utf-8")
    Path("oracle.py").write_text("def score(prompts, responses): ...\n", encoding="utf-8")
    Path("tokenizer").mkdir()
    words = {"[UNK]": 0, "<|endoftext|>": 1, "a": 2, "b": 3}
    Tokenizer(WordLevel(words, unk_token="[UNK]")).save("tokenizer/tokenizer.json")
    settings = {"eos_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    Path("tokenizer/tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    assert main(["check", "spec.yaml"]) == 3
    assert "prompts.jsonl:2" in capsys.readouterr().err


def test_show_prints_a_spec_that_loads_alike(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "spec.yaml", "seed=5"]) == 0
    Path("again.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    assert load_spec("again.yaml").spec == load_spec("spec.yaml", ["seed=5"]).spec


def test_show_deviations_lists_the_recipe_first_and_the_environment_apart(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["show", "--deviations", "spec.yaml", "ppo.kl.coef=0.1"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["recipe:", "2", "deviations", "from", "preset", "tiny"]
    assert rows[1] == ["text.max_prompt", "128", "->", "6", "spec.yaml:4"]
    assert rows[2] == ["ppo.kl.coef", "0.3", "->", "0.1", "command", "line"]
    assert rows[4][0] == "environment"
    assert [row[0] for row in rows[5:]] == ["data.task"]


@pytest.mark.parametrize(
    "words",
    [
        ["spec.yaml", "--deviations", "instructgpt/175b", "ppo.ema=0.5"],
        ["--deviations", "instructgpt/175b", "spec.yaml", "ppo.ema=0.5"],
    ],
)
def test_show_deviations_takes_the_name_of_a_preset(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", *words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["preset"] == "instructgpt/175b"
    rows = {row["path"]: (row["preset"], row["own"]) for row in document["recipe"]}
    assert rows["ppo.ema"] == ("0.992", "0.5")
    assert rows["sft.lr"] == ("5.03e-06", "0.001")


def test_show_deviations_corrects_a_presets_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "spec.yaml", "--deviations", "instructgpt/1.3"]) == 2
    assert 'did you mean "instructgpt/1.3b"?' in capsys.readouterr().err


@pytest.mark.parametrize("name", list(shipped_specs()))
def test_new_writes_a_sound_spec_under_its_own_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLHF_DATA", "data")
    assert main(["new", "mine.yaml", "--from", name]) == 0
    loaded = load_spec("mine.yaml", files=False)
    assert loaded.spec.name == "mine"
    assert loaded.spec.out.startswith("runs/")
    assert loaded.spec.out.endswith("/mine")
    named = ("label.fn", "data.task.fn", "ppo.extra_reward.fn")
    assert not [p for p in examine_spec("mine.yaml").problems if p.path in named]


def test_new_brings_the_functions_that_a_spec_names_and_overwrites_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["new", "mine.yaml", "--from", "instructions"]) == 0
    assert "and specs/oracles/brevity.py, which it names; next: " in capsys.readouterr().err
    own = Path("specs/oracles/brevity.py")
    assert "def score(" in own.read_text(encoding="utf-8")
    own.write_text("def score(prompts, responses): ...\n", encoding="utf-8")
    assert main(["new", "second.yaml", "--from", "instructions"]) == 0
    assert own.read_text(encoding="utf-8") == "def score(prompts, responses): ...\n"


def test_a_wheel_has_the_functions_that_its_specs_name(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("setuptools")
    built = tmp_path / "built"
    build = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run([*build, "build_py", "--build-lib", str(built)], cwd=root, check=True)
    monkeypatch.setattr(new, "__file__", str(built / "toolkit" / "cli" / "new.py"))
    shipped = shipped_specs()
    assert {path.parent for path in shipped.values()} == {built / "toolkit" / "specs"}
    for name in shipped:
        assert main(["new", f"{name}.yaml", "--from", name]) == 0
    named = {file for path in shipped.values() for file in new._PLUGIN.findall(path.read_text())}
    assert len(named) >= 2
    assert {str(path) for path in Path("specs").rglob("*.py")} == named


@pytest.mark.parametrize("name", ["a: b", "12", "null", "my run", "with#hash"])
def test_new_names_the_run_as_the_file_whatever_its_name(name: str) -> None:
    assert main(["new", f"{name}.yaml"]) == 0
    assert load_spec(f"{name}.yaml").spec.name == name


def test_new_never_overwrites(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "spec.yaml"]) == 2
    assert "is there already and is not overwritten" in capsys.readouterr().err
    assert Path("spec.yaml").read_text(encoding="utf-8") == SOUND


def test_new_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "mine.yaml", "--from", "quikstart"]) == 2
    assert 'did you mean "quickstart"?' in capsys.readouterr().err
    assert not Path("mine.yaml").exists()
    assert main(["new", "--list"]) == 0
    assert "quickstart" in capsys.readouterr().out


def test_errors_and_interrupts_become_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(error: BaseException) -> int:
        raise error

    for error, code in ((GateFailed("accuracy 0.5 < 0.6"), 5), (KeyboardInterrupt(), 130)):
        monkeypatch.setattr("toolkit.__main__.dispatch", lambda argv, error=error: fail(error))
        assert main(["check"]) == code
    assert capsys.readouterr().err.startswith("accuracy 0.5 < 0.6\ninterrupted; run the same")


def test_a_missing_package_is_named_with_its_fix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(argv: list[str]) -> int:
        raise ModuleNotFoundError("No module named 'zstandard'", name="zstandard")

    monkeypatch.setattr("toolkit.__main__.dispatch", fail)
    assert main(["check"]) == 1
    assert "run: pip install zstandard" in capsys.readouterr().err


def test_an_unforeseen_error_is_a_traceback_and_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(argv: list[str]) -> int:
        raise KeyError("nope")

    monkeypatch.setattr("toolkit.__main__.dispatch", fail)
    assert main(["check", "spec.yaml"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[-1].startswith("check stopped by an unforeseen KeyError: 'nope'; this is a fault")


def test_what_the_system_refuses_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    Path("folder").mkdir()
    Path("spec.yaml").unlink()
    Path("spec.yaml").mkdir()
    assert main(["check", "spec.yaml"]) == 2
    assert "is a folder; expected a YAML file" in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toolkit.__main__.dispatch", lambda argv: Path("folder").read_text())
        assert main(["report", "runs/a"]) == 1
    assert capsys.readouterr().err == "folder: is a folder where a file was expected; name a file\n"


def test_doctor_names_a_fix_for_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("toolkit.cli.doctor._version", lambda name: None)
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert all("run: pip install" in line for line in lines if line.startswith("missing"))
    assert any("torch" in line for line in lines if line.startswith("missing"))

"""What a command says of words that it cannot use."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.__main__ import main
from toolkit.cli.parser import COMMANDS


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()[-1].partition("error: ")[2]


@pytest.mark.parametrize("name", ["check", "plan", "run", "show", "details"])
def test_a_missing_spec_is_all_that_is_asked_for(name, capsys):
    assert refused([name], capsys) == "the following arguments are required: spec"


@pytest.mark.parametrize("word", ["--out=x", "--sft.lr"])
def test_a_value_with_dashes_is_told_to_have_none(word, capsys):
    expected = f"unrecognized arguments: {word}; a value is given without dashes, such as"
    assert refused(["run", "spec.yaml", word], capsys).startswith(expected)


def test_an_unknown_option_is_named(capsys):
    assert refused(["check", "spec.yaml", "--jsn"], capsys) == "unrecognized arguments: --jsn"


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_with_a_command_is_the_help_of_that_command(name, capsys):
    shown = []
    for words in (["help", name], [name, "--help"]):
        with pytest.raises(SystemExit):
            main(words)
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]


def test_help_with_an_unknown_command_corrects_it(capsys):
    assert main(["help", "rnu"]) == 2
    assert capsys.readouterr().err == 'unknown command rnu; did you mean "run"?\n'


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "expected the file to write, such as my.yaml; --list shows what can be copied"),
        (["nowhere/my.yaml"], 'there is no folder "nowhere"; make it first'),
    ],
)
def test_new_says_what_it_needs(words, said, capsys):
    assert main(["new", *words]) == 2
    assert said in capsys.readouterr().err

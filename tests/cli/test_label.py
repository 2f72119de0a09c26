"""`label`: its arguments, its messages, and how it ends."""

from __future__ import annotations

import socket
import sys

import pytest

from tests.label.served import make_waiting
from toolkit.__main__ import main
from toolkit.cli import label
from toolkit.label.desk import Desk
from toolkit.label.server import PageServer


@pytest.fixture
def waiting(tmp_path, monkeypatch):
    """A run that waits."""
    found = make_waiting(tmp_path)
    monkeypatch.setattr(label, "find_waiting", lambda run: found)
    return found


@pytest.fixture
def opened(monkeypatch):
    """The addresses that a browser was sent to; a server that Ctrl-C ends at once."""
    found: list[str] = []

    def interrupted(server: PageServer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PageServer, "serve_forever", interrupted)
    monkeypatch.setattr(label.webbrowser, "open", found.append)
    monkeypatch.setenv("DISPLAY", ":0")
    return found


def test_ctrl_c_ends_it_with_what_is_ranked_and_how_to_go_on(waiting, opened, capsys):
    assert main(["label", "runs/x", "--port", "0"]) == 0
    first, second, _, last = capsys.readouterr().out.splitlines()
    assert first == f"label.1 of {waiting.run}: 0 of 20 prompts are ranked"
    assert second.startswith("the page is at http://127.0.0.1:")
    assert last == (
        "0 of 20 prompts are ranked; the run goes on from 20 (label.quorum 0.98); "
        f"`python -m toolkit label {waiting.run}` opens the page again"
    )
    assert opened == [second.split()[4]]


def test_no_browser_is_opened_where_none_is_wanted_or_there_is_no_screen(
    waiting, opened, monkeypatch
):
    assert main(["label", "runs/x", "--port", "0", "--no-browser"]) == 0
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert main(["label", "runs/x", "--port", "0"]) == 0
    assert opened == []


def test_a_taken_port_is_a_sentence_where_it_was_asked_for(waiting, opened, monkeypatch, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(["label", "runs/x", "--port", str(port)]) == 1
        message = f"--port {port}: 127.0.0.1 cannot be used there (Address already in use); name"
        assert capsys.readouterr().err.startswith(message)
        monkeypatch.setattr(label, "PORT", port)
        assert main(["label", "runs/x"]) == 0
        assert f":{port}/" not in capsys.readouterr().out


def test_a_port_that_is_none_is_a_sentence(waiting, opened, capsys):
    assert main(["label", "runs/x", "--port", "70000"]) == 1
    assert "ports go from 0 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", " ann", "x" * 101])
def test_a_labelers_name_is_checked_before_anything_is_served(waiting, opened, capsys, name):
    assert main(["label", "runs/x", "--labeler", name]) == 1
    assert capsys.readouterr().err.startswith("--labeler: a labeler")
    assert opened == []


def test_a_login_without_a_name_is_asked_for_one(waiting, opened, monkeypatch, capsys):
    def nameless() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr(label.getpass, "getuser", nameless)
    assert main(["label", "runs/x"]) == 1
    assert "--labeler NAME" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_said(tmp_path, capsys):
    assert main(["label", str(tmp_path / "none")]) == 1
    assert "there is no such run folder" in capsys.readouterr().err


def test_an_export_says_who_gets_what_and_how_it_comes_back(waiting, tmp_path, capsys):
    words = ["label", "runs/x", "--labeler", "ann b", "--export", str(tmp_path / "ann.jsonl")]
    assert main([*words, "--count", "12"]) == 0
    command = f"`python -m toolkit label {waiting.run}"
    shared = sum(map(Desk(waiting).is_shared, Desk(waiting).open_for("cy")))
    first, second = capsys.readouterr().out.splitlines()
    kept = int(first.partition("label.1, ")[2].split()[0])
    assert 12 - shared <= kept <= 12
    assert first == (
        f"{tmp_path}/ann.jsonl: 12 prompts for ann b to rank for label.1, {kept} of them for "
        "nobody else (label.overlap 0.1)"
    )
    assert second == (
        f"what is for nobody else is in no other export and not on the page, until {command} "
        f"--import FILE` adds its rankings or {command} --release 'ann b'` takes it back"
    )
    assert len(Desk(waiting).open_for("ann b")) == 8
    assert main(["label", "runs/x", "--release", "ann b"]) == 0
    said = "12 prompts that are out for ann b, in all files, are offered again\n"
    assert capsys.readouterr().out == said
    assert len(Desk(waiting).open_for("ann b")) == 20


def test_a_page_says_at_its_start_what_is_out_in_files(waiting, opened, tmp_path, capsys):
    assert main(["label", "runs/x", "--labeler", "ann", "--export", str(tmp_path / "a.jsonl")]) == 0
    capsys.readouterr()
    assert main(["label", "runs/x", "--port", "0"]) == 0
    second = capsys.readouterr().out.splitlines()[1]
    assert second.startswith("prompts that are out in exported files: 20 for ann; ")


def test_a_count_is_of_an_export_and_at_least_one(waiting, capsys):
    assert main(["label", "runs/x", "--count", "3"]) == 1
    assert capsys.readouterr().err.endswith("add --export FILE\n")
    for word in ("0", "-1", "many"):
        with pytest.raises(SystemExit):
            main(["label", "runs/x", "--export", "a", f"--count={word}"])
        message = f"argument --count: expected a whole number of at least 1, got {word}\n"
        assert capsys.readouterr().err.endswith(message)


def test_export_and_import_exclude_each_other(waiting):
    with pytest.raises(SystemExit) as caught:
        main(["label", "runs/x", "--export", "a", "--import", "b"])
    assert caught.value.code == 2

"""The server speaks to its own page and to nobody else, and loses nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading

import pytest

from tests.label.served import EVIL, Client, make_waiting, records, served
from toolkit.label.server import ADDRESS, LARGEST_BODY

RANKS = [1, 2, 2, 3]
ALIEN = [
    "evil.example",
    "evil.example:8420",
    "127.0.0.1.evil.example",
    "localhost.evil",
    "",
    "[::1]",
]


def port(client: Client) -> int:
    return client.server.server_address[1]


def test_it_listens_on_the_loopback_address_alone(client):
    assert client.server.server_address[0] == ADDRESS == "127.0.0.1"


def test_a_ranking_is_saved_and_counted(client, waiting):
    task = client.task()
    assert (task["ranked"], task["total"], task["mine"]) == (0, 20, 0)
    assert client.rank(task, RANKS) == (200, {"saved": True})
    after = client.task(after=task["id"])
    assert (after["ranked"], after["mine"], after["previous"]) == (1, 1, task["id"])
    (row,) = records(waiting.file)
    assert (row["responses"], row["ranks"]) == (task["answers"], RANKS)


@pytest.mark.parametrize("host", [*ALIEN, None])
@pytest.mark.parametrize("path", ["/", "/task?labeler=ann"])
def test_another_host_name_reads_nothing(client, host, path):
    status, found = client.ask("GET", path, Host=host)
    assert status == 403
    assert set(found) == {"error"}


@pytest.mark.parametrize("host", [*ALIEN, None])
def test_another_host_name_writes_nothing(client, waiting, host):
    status, found = client.rank(client.task(), RANKS, Host=host, Origin=f"http://{host}")
    assert status == 403
    assert "127.0.0.1 and localhost only" in found["error"]
    assert not waiting.file.exists()


def test_localhost_is_an_own_name_also_behind_a_forwarded_port(client):
    own = {"Host": "localhost:9000", "Origin": "http://localhost:9000"}
    assert client.rank(client.task(), RANKS, **own)[0] == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://"]
)
def test_a_page_of_another_origin_writes_nothing(client, waiting, origin):
    status, found = client.rank(client.task(), RANKS, Origin=origin)
    assert (status, found) == (403, {"error": "another page may not send rankings"})
    assert not waiting.file.exists()


@pytest.mark.parametrize("token", [None, "", "guess", "caf\u00e9"])
def test_without_the_token_of_the_page_nothing_is_written(client, waiting, token):
    status, found = client.rank(client.task(), RANKS, X_Token=token, Origin=None)
    assert status == 403
    assert "reload" in found["error"]
    assert not waiting.file.exists()


def test_a_form_of_another_site_is_refused_by_its_type(client):
    kind = "application/x-www-form-urlencoded"
    assert client.rank(client.task(), RANKS, Content_Type=kind)[0] == 415


BAD = {
    b"": "not JSON",
    b"{": "not JSON",
    b"\xff\xfe": "not JSON",
    b"[" * 20000: "not JSON",
    b"[]": "expected a record",
    b"{}": "labeler and id must be texts",
    b'{"labeler": "ann", "id": "x", "ranks": [1, 2]}': "is none of those that wait",
}


@pytest.mark.parametrize("body", BAD, ids=range(len(BAD)))
def test_a_bad_body_gets_a_sentence(client, body):
    status, found = client.ask("POST", "/ranks", body)
    assert status == 400
    assert BAD[body] in found["error"]
    assert "Traceback" not in found["error"]


@pytest.mark.parametrize(
    ("length", "status"), [(None, 411), ("x", 411), ("-1", 411), ("9" * 30, 413)]
)
def test_a_body_has_a_length_that_is_not_too_large(client, length, status):
    assert client.ask("POST", "/ranks", b"", Content_Length=length)[0] == status
    assert client.ask("POST", "/ranks", b" " * (LARGEST_BODY + 1))[0] == 413


def test_unknown_addresses_get_a_sentence(client):
    assert client.ask("GET", "/etc/passwd")[0] == 404
    assert client.ask("POST", "/other", {})[0] == 404
    assert client.ask("GET", "/task?labeler=ann&id=gone")[0] == 400
    assert client.ask("GET", "/task")[0] == 400


def test_a_full_disk_is_said_and_nothing_counts_as_saved(client, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "label.1.jsonl")

    task = client.task()
    monkeypatch.setattr("toolkit.label.book.os.fsync", full)
    status, found = client.rank(task, RANKS)
    assert status == 507
    assert found["error"].startswith("not saved: label.1.jsonl: no space is left")
    monkeypatch.undo()
    assert client.task()["ranked"] == 0
    assert client.rank(task, RANKS)[0] == 200


def test_rankings_that_cannot_be_read_are_a_sentence(client, waiting):
    waiting.file.mkdir(parents=True)
    status, found = client.ask("GET", "/task?labeler=ann")
    assert status == 500
    assert found["error"] == (
        f"rankings cannot be read: {waiting.file}: is a folder where a file was expected; "
        "name a file"
    )


def test_the_page_may_load_and_send_nothing_elsewhere(client):
    reply = client.ask("GET", "/")
    assert reply[0] == 200
    page = reply[1]
    assert "://" not in page
    assert not re.search(r"\b(src|action|on\w+)=", page)
    assert client.server.token in page


def test_hostile_texts_reach_the_page_as_data_only(tmp_path):
    samples = [{"prompt": EVIL, "responses": [EVIL + "a", EVIL + "b"]}]
    with served(make_waiting(tmp_path, samples), labeler=EVIL) as client:
        _, page = client.ask("GET", "/")
        assert EVIL not in page
        assert page.count("<script") == 2
        assert json.loads(page.split('id="settings">')[1].split("</script>")[0])["labeler"] == EVIL
        assert client.task()["prompt"] == EVIL


def test_two_labelers_at_once_lose_nothing(make):
    waiting = make(overlap=1.0)
    with served(waiting) as client:

        def work(name: str) -> None:
            while (task := client.task(name))["id"] is not None:
                assert client.rank(task, RANKS)[0] == 200

        hands = [threading.Thread(target=work, args=(name,)) for name in ("ann", "bob", "cy")]
        for hand in hands:
            hand.start()
        for hand in hands:
            hand.join()
    found = {(row["labeler"], row["prompt"]) for row in records(waiting.file)}
    assert len(found) == len(records(waiting.file)) == 60


def test_two_servers_of_one_run_see_each_other(make):
    waiting = make(overlap=0.0)
    with served(waiting) as one, served(waiting) as two:
        for client, name in [(one, "ann"), (two, "bob")] * 10:
            assert client.rank(client.task(name), RANKS)[0] == 200
        assert one.task("ann")["id"] is None
        assert two.task("bob")["id"] is None
    assert len({row["prompt"] for row in records(waiting.file)}) == 20


KILLED = """
import sys
from pathlib import Path
from tests.label.served import make_waiting
from toolkit.label.desk import Desk
from toolkit.label.server import PageServer
server = PageServer(Desk(make_waiting(Path(sys.argv[1]))), "ann", 0)
print(server.url, server.token, flush=True)
server.serve_forever()
"""


def test_a_killed_server_loses_nothing_that_it_said_was_saved(tmp_path, root):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    server = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)
    url, token = server.stdout.readline().split()

    class Away:
        server_address = ("127.0.0.1", int(url.rstrip("/").rpartition(":")[2]))

    Away.token = token
    client, saved = Client(Away()), []
    for _ in range(5):
        task = client.task()
        assert client.rank(task, RANKS)[0] == 200
        saved.append((task["prompt"], task["answers"]))
    os.kill(server.pid, signal.SIGKILL)
    server.wait()
    server.stdout.close()
    waiting = make_waiting(tmp_path)
    assert [(row["prompt"], row["responses"]) for row in records(waiting.file)] == saved
    with served(waiting) as again:
        assert again.task()["ranked"] == 5
        assert again.rank(again.task(), RANKS)[0] == 200

"""A round that waits for people, without a run behind it, its server, and who speaks to it."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toolkit.label.desk import Desk
from toolkit.label.server import PageServer
from toolkit.pipeline.people import Waiting
from toolkit.spec.schema import Label, Spec

EVIL = "<script>document.title = 'gone'</script>\"'&"
SAMPLES = [
    {
        "prompt": f"prompt {n}",
        "responses": ["one", "two", "one", "three", ""],
        "source": ["sft"] * 5,
    }
    for n in range(20)
]


def make_waiting(folder: Path, samples: list[dict[str, Any]] = SAMPLES, **label: Any) -> Waiting:
    """Return a stage that waits for rankings of `samples`."""
    spec = replace(Spec(), name="run", label=Label(by="people", **label))
    file = folder / "ranked" / "label.1.jsonl"
    return Waiting(
        run=folder, spec=spec, stage="label.1", round=1, samples=samples, key="k", file=file
    )


def records(file: Path) -> list[dict[str, Any]]:
    """Read the file of rankings."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def at_the_same_time(work: Callable[[int], Any], times: int = 4) -> list[Any]:
    """Do something in several threads that begin together; return what each gave."""
    gate = threading.Barrier(times)

    def begin(number: int) -> Any:
        gate.wait(timeout=20)
        return work(number)

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(begin, range(times)))


@dataclass
class Client:
    """Speaks to a server as the page does, or as `headers` say."""

    server: PageServer

    def ask(
        self, method: str, path: str, body: Any = None, **headers: str | None
    ) -> tuple[int, Any]:
        """Return status and JSON, or the page's text."""
        host, port = self.server.server_address[:2]
        connection = http.client.HTTPConnection(str(host), port, timeout=20)
        known = {"Host": f"127.0.0.1:{port}"}
        if method == "POST":
            own = {"Origin": f"http://127.0.0.1:{port}", "Content-Type": "application/json"}
            known |= own | {"X-Token": self.server.token}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in (known | {"Content-Length": str(len(data))} | named).items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders(data if method == "POST" else None)
        reply = connection.getresponse()
        text = reply.read().decode()
        connection.close()
        is_json = reply.headers.get_content_type() == "application/json"
        return reply.status, json.loads(text) if is_json else text

    def task(self, labeler: str = "ann", **query: str) -> dict[str, Any]:
        """Return what `labeler` is to rank."""
        words = "".join(f"&{name}={value}" for name, value in query.items())
        status, found = self.ask("GET", f"/task?labeler={labeler}{words}")
        assert status == 200, found
        return found

    def rank(self, task: dict[str, Any], ranks: list[int], **headers: str | None) -> Any:
        """Send ranks of the answers of `task`."""
        body = {"labeler": task["labeler"], "id": task["id"], "ranks": ranks, "seconds": 2.5}
        return self.ask("POST", "/ranks", body, **headers)


@contextmanager
def served(waiting: Waiting, labeler: str = "ann") -> Iterator[Client]:
    """Serve a desk while the block runs."""
    server = PageServer(Desk(waiting), labeler, 0)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield Client(server)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

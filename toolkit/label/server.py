"""The ranking page's server: loopback only, one page, two requests.

    GET  /                          the page, with a token
    GET  /task?labeler=&id=&after=  what to show, as JSON
    POST /ranks                     {"labeler", "id", "ranks", "seconds"}; needs the token

A web site that the labeler has open in the same browser must neither read nor write here. So the
Host must be this machine's own name (a name of the site's may point to 127.0.0.1), and who writes
must know the token, which only the page holds, and come from the page's own origin.
"""

from __future__ import annotations

import json
import re
import secrets
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from toolkit.label.desk import Desk, Refused, read_ranks
from toolkit.label.page import Page, render_page
from toolkit.spec.errors import system_error_text

ADDRESS = "127.0.0.1"
PORT = 8420
LARGEST_BODY = 1 << 16

_OWN = re.compile(r"(localhost|127\.0\.0\.1)(:\d{1,5})?")
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Answer(NamedTuple):
    """A status with a JSON body."""

    status: HTTPStatus
    body: dict[str, Any]


def refuse(status: HTTPStatus, why: str) -> Answer:
    """Return an answer that says why in a sentence."""
    return Answer(status, {"error": why})


class PageServer(ThreadingHTTPServer):
    """Serves one desk."""

    daemon_threads = True

    def __init__(self, desk: Desk, labeler: str, port: int) -> None:
        """Listen on the loopback address.

        Args:
            desk: what is ranked.
            labeler: whose name the page begins with.
            port: 0 for a free one.

        Raises:
            OSError: the port is taken, or may not be used.
        """
        super().__init__((ADDRESS, port), Handler)
        self.desk, self.labeler, self.token = desk, labeler, secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        """The page's address."""
        return f"http://{ADDRESS}:{self.server_address[1]}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over a browser that has gone; everything else is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: PageServer
    timeout = 30  # seconds for a browser that opens a connection and says nothing

    def do_GET(self) -> None:
        """Send the page, or what it is to show."""
        if not self._is_own_host():
            self._send_json(_WRONG_HOST)
            return
        parts = urlsplit(self.path)
        if parts.path == "/":
            self._send_page()
        elif parts.path == "/task":
            self._send_json(self._task(parse_qs(parts.query)))
        else:
            self._send_json(refuse(HTTPStatus.NOT_FOUND, "there is no such page here"))

    def do_POST(self) -> None:
        """Save a ranking."""
        body = self._body()  # read also where it is refused, so that the browser hears why
        refused = self._refused()
        if isinstance(body, Answer):
            self._send_json(body)
        elif refused is not None:
            self._send_json(refused)
        elif self.path == "/ranks":
            self._send_json(self._save(body))
        else:
            self._send_json(refuse(HTTPStatus.NOT_FOUND, "rankings go to /ranks"))

    def _is_own_host(self) -> bool:
        return _OWN.fullmatch(self.headers.get("Host", "")) is not None

    def _refused(self) -> Answer | None:
        """Return why a page may not write here, or None."""
        if not self._is_own_host():
            return _WRONG_HOST
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{self.headers['Host']}":
            return refuse(HTTPStatus.FORBIDDEN, "another page may not send rankings")
        if self.headers.get_content_type() != "application/json":
            return refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json")
        token = self.headers.get("X-Token", "")
        if not secrets.compare_digest(token.encode(), self.server.token.encode()):
            why = "this page is of an earlier start of the server; reload it"
            return refuse(HTTPStatus.FORBIDDEN, why)
        return None

    def _body(self) -> bytes | Answer:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            return refuse(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
        if len(length) > 9 or int(length) > LARGEST_BODY:
            why = f"expected at most {LARGEST_BODY} bytes"
            return refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, why)
        return self.rfile.read(int(length))

    def _task(self, query: dict[str, list[str]]) -> Answer:
        labeler, name, after = (query.get(key, [""])[0] for key in ("labeler", "id", "after"))
        try:
            return Answer(HTTPStatus.OK, self.server.desk.task(labeler, name, after))
        except Refused as error:
            return refuse(HTTPStatus.BAD_REQUEST, str(error))
        except OSError as error:
            why = f"rankings cannot be read: {system_error_text(error) or error}"
            return refuse(HTTPStatus.INTERNAL_SERVER_ERROR, why)

    def _save(self, body: bytes) -> Answer:
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return refuse(HTTPStatus.BAD_REQUEST, "the body is not JSON")
        try:
            self.server.desk.save(*read_ranks(value))
        except Refused as error:
            return refuse(HTTPStatus.BAD_REQUEST, str(error))
        except OSError as error:
            why = f"not saved: {system_error_text(error) or error}"
            return refuse(HTTPStatus.INSUFFICIENT_STORAGE, why)
        return Answer(HTTPStatus.OK, {"saved": True})

    def _send_page(self) -> None:
        waiting = self.server.desk.waiting
        page = Page(
            run=waiting.spec.name,
            stage=waiting.stage,
            labeler=self.server.labeler,
            ties=waiting.spec.label.ties,
            token=self.server.token,
        )
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
            "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        )
        extra = {"Content-Security-Policy": policy}
        self._send(HTTPStatus.OK, "text/html; charset=utf-8", render_page(page, nonce), extra)

    def _send_json(self, answer: Answer) -> None:
        self._send(answer.status, "application/json", json.dumps(answer.body))

    def _send(
        self, status: HTTPStatus, kind: str, text: str, extra: dict[str, str] | None = None
    ) -> None:
        data = text.encode("utf-8")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (_HEADERS | (extra or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing for each request."""


_WRONG_HOST = refuse(
    HTTPStatus.FORBIDDEN, "this server answers to 127.0.0.1 and localhost only; use its address"
)

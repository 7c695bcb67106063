"""The HTTP side of the stand-in: reads calls, sends answers, and breaks connections when told to."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event
from typing import Any
from urllib.parse import urlsplit

from unbroken.testing.kaggle.behaviour import Fault
from unbroken.testing.kaggle.messages import Answer, Call

_BLOCK = 1 << 16


class Server(ThreadingHTTPServer):
    """Serves on a free port of 127.0.0.1; `take` gives the fault of a call, `answer` what to say to it."""

    daemon_threads = True

    def __init__(self, take: Callable[[str], Fault | None], answer: Callable[[Call, Fault], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.take = take
        self.answer = answer
        self.closing = Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave in the middle are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    # headers and body in one packet: otherwise each answer waits for the client's delayed acknowledgement
    wbufsize = -1
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name is http.server's
        del format, arguments

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_GET  # noqa: N815 - the names are http.server's

    def _serve(self) -> None:
        fault = self.server.take(self._path()) or Fault()
        call = self._call(fault)
        answer = self.server.answer(call, fault)
        self.server.closing.wait(fault.delay)
        silent = fault.hangs and fault.answer_bytes is None
        torn = fault.request_bytes is not None or len(call.body) < call.length
        if not silent and not torn:
            self._send(answer, fault)
        if fault.hangs:
            self.server.closing.wait()
        self.close_connection = self.close_connection or silent or torn

    def _path(self) -> str:
        return urlsplit(self.path).path

    def _call(self, fault: Fault) -> Call:
        self._acknowledge()
        length = int(self.headers.get("Content-Length") or 0)
        wanted = length if fault.request_bytes is None else min(length, fault.request_bytes)
        body = bytearray()
        with contextlib.suppress(OSError):
            while len(body) < wanted and (block := self.rfile.read1(min(_BLOCK, wanted - len(body)))):
                body += block
        headers = {name.lower(): value for name, value in self.headers.items()}
        return Call(self.command, urlsplit(self.path), headers, bytes(body), length)

    def _acknowledge(self) -> None:
        """Without it, a client behind a proxy sends the body only after the delayed acknowledgement of its headers."""
        if hasattr(socket, "TCP_QUICKACK"):
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _send(self, answer: Answer, fault: Fault) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        body = answer.body if fault.answer_bytes is None else answer.body[: fault.answer_bytes]
        self.close_connection = self.close_connection or len(body) < len(answer.body)
        self.wfile.write(body)
        self.wfile.flush()

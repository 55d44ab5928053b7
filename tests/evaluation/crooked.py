"""A local HTTP server that answers as the OpenAI API does, or misbehaves as it is told."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from loraland.evaluation.endpoint import Endpoint, parse_endpoint

KEY = "sk-very-secret-0123456789"


class Seen(NamedTuple):
    """A request as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        found = self.body.get("prompt") or self.body["messages"][-1]["content"]
        assert isinstance(found, str)
        return found


Act = Callable[[BaseHTTPRequestHandler, Seen], None]


@dataclass
class Crooked:
    """What a running server is told to do, and what it has seen."""

    url: str
    script: list[Act] = field(default_factory=list)  # for the first requests, in turn
    otherwise: Act = field(default_factory=lambda: says("positive"))
    seen: list[Seen] = field(default_factory=list)
    at_once: int = 0  # most requests that were open together
    done: threading.Event = field(default_factory=threading.Event)  # lets go of who hangs

    def endpoint(self, **changes: Any) -> Endpoint:
        """Settings that lead here, read as a user's would be."""
        fields = {
            "name": "crooked",
            "url": self.url,
            "model": "gpt-x",
            "api_key_env": "CROOKED_KEY",
            "concurrency": 1,
            "timeout_s": 5,
            "attempts": 3,
        }
        return parse_endpoint(json.dumps(fields | changes), "here")


@contextmanager
def crooked() -> Iterator[Crooked]:
    """A server on a free port of this machine."""
    lock, open_now = threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            seen = Seen(self.path, {k.lower(): v for k, v in self.headers.items()}, {})
            seen = seen._replace(body=json.loads(content))
            with lock:
                server.seen.append(seen)
                act = server.script.pop(0) if server.script else server.otherwise
                open_now[0] += 1
                server.at_once = max(server.at_once, open_now[0])
            try:
                act(self, seen)
            finally:
                with lock:
                    open_now[0] -= 1

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that has had enough

    http = Server(("127.0.0.1", 0), Handler)
    server = Crooked(f"http://127.0.0.1:{http.server_address[1]}/v1")
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.done.set()
        http.shutdown()
        http.server_close()
        thread.join()


def reply(
    text: str | None,
    api: str = "chat",
    *,
    finish: str = "stop",
    tokens: tuple[int, int] | None = (7, 2),
    **more: Any,
) -> dict[str, Any]:
    """The body of an answer."""
    choice = {"text": text} if api == "completions" else {"message": {"content": text}}
    usage = tokens and {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    return {
        "id": "x",
        "created": 1_760_000_000,
        "model": "gpt-x-2026-01-31",
        "choices": [choice | {"index": 0, "finish_reason": finish}],
        "usage": usage,
    } | more


def sends(status: int, content: bytes, **headers: str) -> Act:
    """These bytes under a status."""

    def act(handler: BaseHTTPRequestHandler, _: Seen) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("content-length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return act


def says(text: str | None, **more: Any) -> Act:
    """An answer in the API that was asked."""

    def act(handler: BaseHTTPRequestHandler, seen: Seen) -> None:
        api = "completions" if "prompt" in seen.body else "chat"
        content = json.dumps(reply(text, api, **more)).encode()
        sends(200, content, content_type="application/json")(handler, seen)

    return act


def fails(status: int, code: str | None = None, message: str = "no", **headers: str) -> Act:
    """An error in OpenAI's shape."""
    content = json.dumps({"error": {"message": message, "code": code}}).encode()
    return sends(status, content, content_type="application/json", **headers)


def half_a_body(handler: BaseHTTPRequestHandler, _: Seen) -> None:
    """Half of what is announced, then the end of the connection."""
    content = json.dumps(reply("positive")).encode()
    handler.send_response(200)
    handler.send_header("content-length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2])
    handler.close_connection = True


def resets(handler: BaseHTTPRequestHandler, _: Seen) -> None:
    """The connection is reset."""
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.close_connection = True
    for end in (handler.rfile, handler.wfile, handler.connection):
        end.close()


def no_http(handler: BaseHTTPRequestHandler, _: Seen) -> None:
    """Bytes that are no HTTP."""
    handler.wfile.write(b"\x00\xff\x00 hello\r\n\r\n")
    handler.close_connection = True


def hangs(server: Crooked) -> Act:
    """No answer as long as the test runs."""

    def act(handler: BaseHTTPRequestHandler, _: Seen) -> None:
        server.done.wait(30)
        handler.close_connection = True

    return act


def drips(server: Crooked) -> Act:
    """A body without end, a byte at a time, so that no single read takes long."""

    def act(handler: BaseHTTPRequestHandler, _: Seen) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "1000000")
        handler.end_headers()
        while not server.done.wait(0.01):
            handler.wfile.write(b" ")

    return act


def huge(handler: BaseHTTPRequestHandler, _: Seen) -> None:
    """A body that nobody would want to keep, in chunks and without an announced length."""
    handler.send_response(200)
    handler.send_header("transfer-encoding", "chunked")
    handler.end_headers()
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    for _n in range(1000):
        handler.wfile.write(chunk)

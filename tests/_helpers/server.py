"""A server in this process that does what a test asks of it."""

import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from _helpers.cli import TINY


@dataclass
class Server:
    """What it serves and how; the requests that it saw."""

    content: bytes = b""
    cut: int | None = None  # bytes after which the connection breaks
    length: int | None = None  # what Content-Length claims
    status: int = 200
    redirect: str | None = None
    silent: bool = False
    stalls: bool = False  # keeps the connection where it is cut
    port: int = 0
    seen: list[dict] = field(default_factory=list)
    quiet: threading.Event = field(default_factory=threading.Event)

    def url(self, name: str = "tiny.tar.xz") -> str:
        return f"http://127.0.0.1:{self.port}/{name}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.seen.append(dict(handler.headers))
        if self.silent:
            self.quiet.wait(20)
            return
        if self.redirect and handler.path != "/moved":
            handler.send_response(302)
            handler.send_header("Location", self.redirect)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(self.status)
        handler.send_header("Content-Type", "application/x-xz")
        handler.send_header("Content-Length", str(self.length or len(self.content)))
        handler.end_headers()
        handler.wfile.write(self.content[: self.cut])
        if self.stalls:
            self.quiet.wait(20)


@pytest.fixture
def server() -> Iterator[Server]:
    what = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            what.answer(self)

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    what.port = http.server_port
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield what
    what.quiet.set()
    http.shutdown()
    thread.join()
    http.server_close()


def packed(folder: Path, name: str = "tiny", mode: str = "w:xz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:
        tar.add(folder, arcname=name)
    return stream.getvalue()


def command(server: Server, *more: str) -> list[str]:
    args = [a for a in TINY if a not in ("data=folder", "data.root=data")]
    data = ["data=mvtec", "data.root=data", "data.category=tiny", "data.download=true"]
    return [*args, *data, f"data.url={server.url()}", *more]

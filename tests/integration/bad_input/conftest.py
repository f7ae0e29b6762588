"""A web server that misbehaves in every way, disks that are full or read-only, and a workshop for bad files."""

from __future__ import annotations

import contextlib
import os
import resource
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from ...unit.compressor_inputs.conftest import build, session_build  # noqa: F401, TID252

CONTENT = bytes(range(256)) * 1200  # 300 KiB


@dataclass
class Server:
    """What the handler below serves and saw."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def put(self, name: str, content: bytes, how: str = "good") -> str:
        """The URL under which `content` is served in the way `how`."""
        self.files[name] = content
        return f"{self.url}/{how}/{name}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _HttpsServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        _, how, name = self.path.split("?")[0].split("/", 2)
        state = self.server.state
        state.requests.append((self.path, self.headers.get("Range", "")))
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            getattr(self, f"serve_{how}")(state.files.get(name, CONTENT))
        if how not in ("good", "redirect", "nothttps", "elsewhere", "loop"):
            self.close_connection = True

    def begin(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def part(self, content: bytes, *, etag: str = '"one"') -> bytes:
        """What is asked for: all, or the rest."""
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if start and self.headers.get("If-Range", etag) == etag:
            self.begin(
                206,
                Content_Range=f"bytes {start}-{len(content) - 1}/{len(content)}",
                Content_Length=len(content) - start,
                ETag=etag,
            )
            return content[start:]
        self.begin(200, Content_Length=len(content), ETag=etag)
        return content

    def serve_good(self, content: bytes) -> None:
        self.wfile.write(self.part(content))

    def serve_resumes(self, content: bytes) -> None:
        """100 000 bytes per connection."""
        self.wfile.write(self.part(content)[:100_000])

    def serve_changes(self, content: bytes) -> None:
        """Cut off once; by then the file has another ETag."""
        first = len([r for r in self.server.state.requests if r[0] == self.path]) == 1
        rest = self.part(content, etag='"one"' if first else '"two"')
        self.wfile.write(rest[:100_000] if first else rest)

    def serve_norange(self, content: bytes) -> None:
        """Cut off once; ranges are ignored."""
        first = len([r for r in self.server.state.requests if r[0] == self.path]) == 1
        self.begin(200, Content_Length=len(content))
        self.wfile.write(content[:100_000] if first else content)

    def serve_stops(self, content: bytes) -> None:
        """Always in the middle, from the start."""
        self.begin(200, Content_Length=len(content))
        self.wfile.write(content[: len(content) // 2][:60_000])

    def serve_long(self, content: bytes) -> None:
        self.begin(200, Content_Length=len(content) + 1000)
        self.wfile.write(content)

    def serve_short(self, content: bytes) -> None:
        self.begin(200, Content_Length=len(content) - 10)
        self.wfile.write(content)

    def serve_huge(self, content: bytes) -> None:
        self.begin(200, Content_Length=10**13)
        self.wfile.write(content)

    def serve_endless(self, content: bytes) -> None:
        self.begin(200, Transfer_Encoding="chunked")
        while True:
            self.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")

    def serve_drips(self, content: bytes) -> None:
        self.begin(200, Content_Length=len(content))
        for at in range(40):
            self.wfile.write(content[at : at + 1])
            time.sleep(0.05)

    def serve_busy(self, content: bytes) -> None:
        """Twice, then well."""
        if len(self.server.state.requests) < 3:
            self.begin(503, Retry_After="7", Content_Length=0)
        else:
            self.serve_good(content)

    def serve_gzip(self, content: bytes) -> None:
        self.begin(200, Content_Encoding="gzip", Content_Length=len(content))
        self.wfile.write(content)

    def serve_status(self, content: bytes) -> None:
        self.begin(int(self.path.rsplit("/", 1)[1]), Content_Length=0)

    def serve_redirect(self, content: bytes) -> None:
        self.begin(302, Location=self.path.replace("/redirect/", "/good/"), Content_Length=0)

    def serve_nothttps(self, content: bytes) -> None:
        self.begin(302, Location=f"http://{self.headers['Host']}/good/x?token=secret", Content_Length=0)

    def serve_loop(self, content: bytes) -> None:
        self.begin(302, Location=self.path, Content_Length=0)


class _HttpsServer(ThreadingHTTPServer):
    daemon_threads = True
    state: Server

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are the point."""


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory, monkeypatch) -> Iterator[Server]:
    """An https server on localhost that this test trusts."""
    pem = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    httpd = _HttpsServer(("127.0.0.1", 0), _Handler)
    httpd.socket = context.wrap_socket(httpd.socket, server_side=True, do_handshake_on_connect=False)
    httpd.state = Server(f"https://localhost:{httpd.server_address[1]}")
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield httpd.state
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@contextlib.contextmanager
def _mounted(folder: Path, options: str) -> Iterator[bool]:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=False, capture_output=True
    )
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder in which only 64 KiB more can be written: a small tmpfs, or (without the right to mount) a limit."""
    with _mounted(tmp_path / "full", "size=64k") as mounted:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if not mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, hard))
        try:
            yield tmp_path / "full"
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that cannot be written."""
    folder = tmp_path / "read-only"
    with _mounted(folder, "ro") as mounted:
        if not mounted:
            folder.chmod(0o555)
        yield Path("/sys") if not mounted and os.geteuid() == 0 else folder
        if not mounted:
            folder.chmod(0o755)

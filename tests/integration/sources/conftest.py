"""A real S3 server (versitygw) with TLS and a registry that wants a password, as processes; a web server that does."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme
from tests.programs import free_port, tool

from edgemodel_api.edgemodel import RemoteFile
from edgemodel_compressor.credentials import Secret
from edgemodel_compressor.sources import Fetched, check_credentials, fetch_source

CONTENT = bytes(range(256)) * 4000
ACCESS_KEY, SECRET_KEY = "AKIDEXAMPLE", "a/secret+key"
USER, PASSWORD = "ali", "open sesame"
# bcrypt of the password above, as `htpasswd -B` writes it.
HTPASSWD = "ali:$2b$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n"
TOKEN = "a-token"


@contextlib.contextmanager
def process(command: list[str], port: int, log: Path, **environment: str) -> Iterator[None]:
    with open(log, "wb") as out:
        started = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **environment})
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            if started.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{command[0]} does not start: {log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield
    finally:
        started.terminate()
        started.wait(20)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def tls(authority, tmp_path_factory) -> tuple[Path, Path]:
    """Certificate and key of localhost, of an authority that nobody here trusts by himself."""
    folder = tmp_path_factory.mktemp("tls")
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    for blob in issued.cert_chain_pems:
        blob.write_to_path(folder / "cert.pem", append=True)
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture(scope="session")
def s3(tls, tmp_path_factory) -> str:
    """The endpoint; the bucket `models` holds `v1/m x.onnx`."""
    folder = tmp_path_factory.mktemp("s3")
    (folder / "data" / "models" / "v1").mkdir(parents=True)
    (folder / "data" / "models" / "v1" / "m x.onnx").write_bytes(CONTENT)
    (folder / "sidecar").mkdir()
    port = free_port()
    command = [tool("versitygw"), "--port", f"127.0.0.1:{port}", "--cert", str(tls[0]), "--key", str(tls[1])]
    command += ["posix", "--sidecar", str(folder / "sidecar"), str(folder / "data")]
    keys = {"ROOT_ACCESS_KEY_ID": ACCESS_KEY, "ROOT_SECRET_ACCESS_KEY": SECRET_KEY}
    with process(command, port, folder / "log", **keys):
        yield f"https://localhost:{port}"


@pytest.fixture(scope="session")
def registry(tls, tmp_path_factory) -> str:
    """`host:port` of a registry with TLS that wants USER and PASSWORD."""
    folder = tmp_path_factory.mktemp("registry")
    port = free_port()
    (folder / "htpasswd").write_text(HTPASSWD)
    config = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": f"localhost:{port}", "tls": {"certificate": str(tls[0]), "key": str(tls[1])}},
        "auth": {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}},
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    command = [tool("registry"), "serve", str(folder / "config.yaml")]
    with process(command, port, folder / "log", OTEL_TRACES_EXPORTER="none"):
        yield f"localhost:{port}"


@pytest.fixture
def login() -> dict[str, str]:
    """What opens what is here, as a Secret's keys."""
    return {
        "username": USER, "password": PASSWORD, "token": TOKEN,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    }  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    server: _Web

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        sent = self.headers.get("Authorization")
        state = self.server.state
        state.seen.append((self.path, sent))
        allowed = {"Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode(), f"Bearer {TOKEN}"}
        if self.path.startswith("/answer/"):
            status, headers, body = state.answers[self.path.split("?")[0]]
        elif sent in allowed:
            status, headers, body = 200, {}, CONTENT
        else:
            status, headers, body = (403 if sent else 401), {}, b"no"
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)


class _Web(ThreadingHTTPServer):
    daemon_threads = True
    state: Web

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are the point."""


@dataclass
class Web:
    """What the handler serves and saw. `/answer/…` is answered as `answers` says, the rest to those who may."""

    url: str
    seen: list[tuple[str, str | None]] = field(default_factory=list)
    answers: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)


@pytest.fixture
def web(tls) -> Iterator[Web]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*tls)
    httpd = _Web(("127.0.0.1", 0), _Handler)
    httpd.socket = context.wrap_socket(httpd.socket, server_side=True, do_handshake_on_connect=False)
    httpd.state = Web(f"https://localhost:{httpd.server_address[1]}")
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield httpd.state
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture
def secret(tmp_path, authority) -> Callable[..., Secret]:
    """A Secret as a kubelet lays it down: files that are links into a folder. With `ca.crt`, unless it is None."""

    def make(keys: dict[str, str | None] | None = None, name: str = "keys") -> Secret:
        folder = tmp_path / "secrets" / name
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "..2026_11_25").mkdir(parents=True)
        (folder / "..data").symlink_to("..2026_11_25")
        for key, value in {"ca.crt": authority.cert_pem.bytes().decode(), **(keys or {})}.items():
            if value is not None:
                (folder / "..data" / key).write_text(value)
                (folder / key).symlink_to(f"..data/{key}")
        return Secret(name, folder)

    return make


@pytest.fixture
def fetch(tmp_path) -> Callable[..., Fetched]:
    """Bring a file of CONTENT; nothing is left after an error."""

    def run(uri: str, secret: Secret | None = None, **more) -> Fetched:
        work = tmp_path / "work"
        work.mkdir(exist_ok=True)
        remote = RemoteFile(uri=uri, sha256=more.pop("sha256", hashlib.sha256(CONTENT).hexdigest()))
        check_credentials(remote, secret)
        try:
            return fetch_source(
                remote, work / "m", base_dir=tmp_path, secret=secret, max_bytes=more.pop("max_bytes", 2**21), **more
            )
        except BaseException:
            assert list(work.iterdir()) == []
            raise

    return run


@pytest.fixture
def tls_on_loopback(monkeypatch) -> None:
    """Registries on this machine are spoken to without TLS; those of these tests are not."""
    monkeypatch.setattr("edgemodel_oci.transport.is_plain_http", lambda _: False)


@pytest.fixture(autouse=True)
def nothing_of_the_user(tmp_path, monkeypatch) -> None:
    """No Docker configuration and no keys of whoever runs the tests."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker-config"))
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", *(n for n in os.environ if n.startswith("AWS_"))):
        monkeypatch.delenv(name, raising=False)

"""Real registries and the real oras as processes on loopback; a proxy that cuts connections; a scripted HTTP server."""

import contextlib
import http.server
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from tests.programs import free_port, tool

from edgemodel_api.artifact import Golden
from edgemodel_oci.artifact import ArtifactWriter
from edgemodel_oci.reference import Reference
from edgemodel_oci.repository import Repository, open_repository

PLATFORM = "linux/amd64"
USER, PASSWORD = "ali", "open sesame"
# bcrypt of the password above, as `htpasswd -B` writes it.
HTPASSWD = "ali:$2b$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n"


@contextlib.contextmanager
def registry_process(folder: Path, *, htpasswd: str | None = None, deletes: bool = False):
    """`host:port` of a registry that stores into `folder`."""
    folder.mkdir()
    port = free_port()
    config = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": deletes}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if htpasswd is not None:
        (folder / "htpasswd").write_text(htpasswd)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    (folder / "config.yaml").write_text(json.dumps(config))
    with open(folder / "log", "wb") as log:
        command = [tool("registry"), "serve", str(folder / "config.yaml")]
        environment = {**os.environ, "OTEL_TRACES_EXPORTER": "none"}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/v2/").status_code in (200, 401):
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the registry does not start: {(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="session")
def registry(tmp_path_factory) -> str:
    """`host:port` of a registry without authentication."""
    with registry_process(tmp_path_factory.mktemp("registry") / "open") as host:
        yield host


@pytest.fixture(scope="session")
def guarded_registry(tmp_path_factory) -> str:
    """`host:port` of a registry that wants USER and PASSWORD."""
    with registry_process(tmp_path_factory.mktemp("registry") / "guarded", htpasswd=HTPASSWD) as host:
        yield host


@pytest.fixture(scope="session")
def deleting_registry(tmp_path_factory) -> str:
    """`host:port` of a registry that wants USER and PASSWORD, and deletes."""
    with registry_process(tmp_path_factory.mktemp("registry") / "deleting", htpasswd=HTPASSWD, deletes=True) as host:
        yield host


@pytest.fixture
def login() -> tuple[str, str]:
    return USER, PASSWORD


@pytest.fixture(autouse=True)
def no_credentials_of_the_user(tmp_path, monkeypatch) -> Path:
    """The folder of a Docker configuration that is empty."""
    folder = tmp_path / "docker-config"
    folder.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def oras(tmp_path) -> Callable[..., str]:
    """Run oras; its output."""
    program = tool("oras")

    def run(*arguments: object, cwd: Path | None = None) -> str:
        done = subprocess.run(
            [program, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=60, check=False
        )
        assert done.returncode == 0, f"oras {arguments}: {done.stderr}"
        return done.stdout

    return run


@pytest.fixture
def files(tmp_path) -> tuple[Path, Path]:
    """A model file (any bytes: 1 MB, half of it zeros) and a golden file."""
    noise = np.random.default_rng(7).integers(0, 256, 1_000_000, dtype=np.uint8)
    noise[::2] = 0
    model, golden = tmp_path / "model.onnx", tmp_path / "golden.npz"
    model.write_bytes(noise.tobytes())
    golden.write_bytes(b"golden cases")
    return model, golden


@pytest.fixture
def write(files):
    """Write an artifact of two variants that share a file, on two platforms; (index, variants)."""

    def run(repo: Repository, revision: str = "r1"):
        writer = ArtifactWriter(repo)
        variants = [
            writer.add_variant(
                platform=platform,
                name="source",
                model_file=files[0],
                golden_file=files[1],
                golden=Golden(cases=4, max_error=1e-3),
                classes=("amd64-vnni",),
                encoding="float32",
                source_name="tiny",
            )
            for platform in (PLATFORM, "linux/arm64")
        ]
        return writer.finish(revision=revision, tag=revision), variants

    return run


@pytest.fixture
def open_at():
    """Open a repository by its reference; closed at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda text, **options: stack.enter_context(open_repository(Reference.parse(text), **options))


class Proxy:
    """Forwards TCP to `target`. The first `cuts` connections are reset after `after` bytes in the given direction."""

    def __init__(self, target: str, *, after: int, cuts: int, upstream: bool = False) -> None:
        host, _, port = target.partition(":")
        self.target = (host, int(port))
        self.after, self.cuts, self.upstream = after, cuts, upstream
        self.connections = 0
        self.bytes_down = 0
        self._ends: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._server.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            server = socket.create_connection(self.target)
            self._ends += [client, server]
            budget = self.after if self.connections <= self.cuts else None
            for source, sink, counted in ((client, server, self.upstream), (server, client, not self.upstream)):
                thread = threading.Thread(
                    target=self._pump, args=(source, sink, budget if counted else None), daemon=True
                )
                thread.down = source is server
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, budget: int | None) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                if budget is not None and passed + len(data) > budget:
                    sink.sendall(data[: budget - passed])
                    break
                sink.sendall(data)
                passed += len(data)
                if threading.current_thread().down:
                    self.bytes_down += len(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        # shutdown wakes the accept; close alone does not.
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)


@pytest.fixture
def cutting_proxy():
    """Make a `Proxy`; closed at the end."""
    proxies = []

    def make(target: str, **options) -> Proxy:
        proxies.append(Proxy(target, **options))
        return proxies[-1]

    yield make
    for proxy in proxies:
        proxy.close()


class Scripted:
    """An HTTP server whose answers a test writes: `answers[(method, path)]` is a list that is used up to its last."""

    def __init__(self, context=None) -> None:
        self.answers: dict[tuple[str, str], list] = {}
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _handle(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.requests.append((self.command, self.path, dict(self.headers.items()), body))
                found = outer.answers.get((self.command, self.path.partition("?")[0])) or [(404, {}, b"")]
                status, headers, content = found.pop(0) if len(found) > 1 else found[0]
                self.send_response(status)
                for key, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = _handle  # noqa: N815  http.server's names

            def log_message(self, *_) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *_) -> None:
                """Clients of these tests break off on purpose."""

        self._server = Server(("127.0.0.1", 0), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def on(self, method: str, path: str, status: int, headers: dict | None = None, content: bytes = b"") -> None:
        self.answers.setdefault((method, path), []).append((status, headers or {}, content))

    def asked(self, method: str, path: str) -> list[dict[str, str]]:
        """The headers of the requests for this path, in order."""
        return [h for m, p, h, _ in self.requests if m == method and p.partition("?")[0] == path]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@pytest.fixture
def scripted():
    """Make a `Scripted` server; closed at the end."""
    servers = []

    def make(context=None) -> Scripted:
        servers.append(Scripted(context))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def no_waiting(monkeypatch) -> list[float]:
    """The seconds that retries would have waited."""
    waits: list[float] = []
    monkeypatch.setattr("edgemodel_oci.transport.SLEEP", waits.append)
    monkeypatch.setattr("edgemodel_oci.pull.SLEEP", waits.append)
    return waits

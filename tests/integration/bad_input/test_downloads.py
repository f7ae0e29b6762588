"""Downloads that go well in the end, though the server does its worst; and who gets to see what."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgemodel_api.edgemodel import RemoteFile
from edgemodel_api.errors import InputError, TransientError
from edgemodel_compressor import download
from edgemodel_compressor.credentials import Secret
from edgemodel_compressor.download import Download
from edgemodel_compressor.remote import HttpsFile, shown
from edgemodel_compressor.sources import Fetched, fetch_source

CONTENT = bytes(range(256)) * 1200


def fetch(uri: str, folder: Path, **more: Any) -> Fetched:
    file = RemoteFile(uri=uri, sha256=hashlib.sha256(CONTENT).hexdigest())
    return fetch_source(file, folder / "m", base_dir=folder, max_bytes=2**20, **more)


# how the server answers → the Range headers that it sees
WAYS = {
    "good": ["" ],
    "resumes": ["", "bytes=100000-", "bytes=200000-", "bytes=300000-"],
    "changes": ["", "bytes=100000-"],
    "norange": ["", "bytes=100000-"],
}  # fmt: skip


@pytest.mark.parametrize("how", WAYS)
def test_arrives_whole(how: str, server: Any, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = fetch(server.put("m.bin", CONTENT, how), tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert found.path.read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert [asked for _, asked in server.requests] == WAYS[how]
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_server_that_drips_is_given_up(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "STALL_SECONDS", 0.2)
    with pytest.raises(TransientError, match=r"only \d+ bytes came in 0 s .4 tries"):
        fetch(server.put("m.bin", CONTENT, "drips"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_busy_server_is_given_the_time_that_it_asks_for(server: Any) -> None:
    waits: list[float] = []
    sink = _Nowhere()
    with Download(_file(server.put("m.bin", CONTENT, "busy")), sleep=waits.append) as busy:
        busy.run(sink)
    assert sink.done == len(CONTENT)
    assert waits == [7.0, 7.0]


def test_redirects_are_followed(server: Any, tmp_path: Path) -> None:
    assert fetch(server.put("m.bin", CONTENT, "redirect"), tmp_path).size == len(CONTENT)
    assert [path for path, _ in server.requests] == ["/redirect/m.bin", "/good/m.bin"]


SENT = {
    "password": ({"username": "user", "password": "secret\n"}, "Basic dXNlcjpzZWNyZXQ="),
    "token": ({"token": "secret"}, "Bearer secret"),
    "nothing": (None, None),
}


def _file(uri: str, secret: Secret | None = None) -> HttpsFile:
    return HttpsFile(RemoteFile(uri=uri, sha256="0" * 64), secret)


@pytest.mark.parametrize("name", SENT)
def test_credentials_go_to_their_own_host_only(name: str, tmp_path: Path) -> None:
    keys, expected = SENT[name]
    for key, value in (keys or {}).items():
        (tmp_path / key).write_text(value)
    secret = Secret("web", tmp_path) if keys is not None else None
    seen: dict[str, str | None] = {}

    def answer(request: httpx.Request) -> httpx.Response:
        seen[request.url.host] = request.headers.get("Authorization")
        if request.url.host == "own.example.com":
            return httpx.Response(302, headers={"Location": "https://other.example.com/m"})
        return httpx.Response(404)

    getting = Download(_file("https://own.example.com/m", secret))
    getting._client = httpx.Client(transport=httpx.MockTransport(answer))
    with getting, pytest.raises(InputError, match="404"):
        getting.run(_Nowhere())
    assert seen == {"own.example.com": expected, "other.example.com": None}


@pytest.mark.parametrize("target", ["https://own.example.com:8443/m", "https://own.example.com.evil.example/m"])
def test_credentials_go_to_their_own_port_only(target: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    seen: list[tuple[str, str | None]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((str(request.url), request.headers.get("Authorization")))
        first = len(seen) == 1
        return httpx.Response(302, headers={"Location": target}) if first else httpx.Response(401)

    getting = Download(_file("https://own.example.com/m", Secret("web", tmp_path)))
    getting._client = httpx.Client(transport=httpx.MockTransport(answer))
    with getting, pytest.raises(InputError, match="401 Unauthorized: it was redirected to, and other hosts get no"):
        getting.run(_Nowhere())
    assert seen == [("https://own.example.com/m", "Bearer secret"), (target, None)]


class _Nowhere:
    done = 0

    def announce(self, total: int | None) -> None:
        pass

    def restart(self) -> None:
        pass

    def write(self, chunk: bytes) -> None:
        self.done += len(chunk)


def test_messages_show_no_secrets() -> None:
    assert shown(httpx.URL("https://user:secret@example.com:8443/m?token=secret#x")) == "https://example.com:8443/m"


@pytest.mark.parametrize(
    "uri", ["https:", "https:///m", "https://", "https://exa mple.com/m", "https://[::1/m", "https://host:99999/m"]
)
def test_addresses_that_are_none(uri: str, tmp_path: Path) -> None:
    file = RemoteFile.model_construct(uri=uri, sha256="0" * 64)
    with pytest.raises(InputError, match="https"):
        fetch_source(file, tmp_path / "m", base_dir=tmp_path, max_bytes=2**20)
    assert list(tmp_path.iterdir()) == []


def test_unreadable_authorities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with pytest.raises(InputError, match="SSL_CERT_FILE"):
        _file("https://example.com/m")

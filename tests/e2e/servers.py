"""Servers on this machine that pods of the test bed reach: files by https with a password, and S3."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import obstore
import trustme
from obstore.store import S3Store

from .kube import program, wait

#: Made up for each run by nobody: they guard a public example.
USER, PASSWORD = "reader", "for-this-test-alone"
BUCKET, REGION = "models", "us-east-1"


class _Guarded(SimpleHTTPRequestHandler):
    """Files of a folder for those who know the password."""

    asked: list[str]

    def do_GET(self) -> None:
        expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") != expected:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="models"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        super().do_GET()

    def log_message(self, *_: object) -> None:
        """Not among the tests' output."""


@contextlib.contextmanager
def https_files(folder: Path, address: str) -> Iterator[tuple[str, bytes]]:
    """Base URL, and the certificate of the authority that nobody knows yet."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(address).configure_cert(context)
    handler = functools.partial(_Guarded, directory=str(folder))
    with http.server.ThreadingHTTPServer((address, 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"https://{address}:{server.server_address[1]}", authority.cert_pem.bytes()
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def s3(folder: Path, address: str, files: list[Path]) -> Iterator[str]:
    """A real S3-compatible server (Versity's gateway) with these files in BUCKET; its endpoint."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        port = probe.getsockname()[1]
    (folder / BUCKET).mkdir(parents=True)
    environment = {**os.environ, "ROOT_ACCESS_KEY": USER, "ROOT_SECRET_KEY": PASSWORD}
    command = [program("versitygw"), "--port", f"{address}:{port}", "--quiet", "posix", "--nometa", folder]
    log = folder.with_suffix(".log")
    with (
        log.open("wb") as out,
        subprocess.Popen(list(map(str, command)), env=environment, stdout=out, stderr=out) as process,
    ):
        try:
            endpoint = f"http://{address}:{port}"
            wait(lambda: _listens(address, port) or process.poll() is not None, "the S3 server", 20)
            assert process.poll() is None, log.read_text()
            store = S3Store(
                BUCKET, endpoint=endpoint, region=REGION, access_key_id=USER, secret_access_key=PASSWORD,
                virtual_hosted_style_request=False, client_options={"allow_http": True},
            )  # fmt: skip
            for path in files:
                obstore.put(store, path.name, path.read_bytes())
            yield endpoint
        finally:
            process.kill()


def _listens(address: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
        return True
    return False

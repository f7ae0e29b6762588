"""What holds for every test."""

from __future__ import annotations

import gc
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from hypothesis import is_hypothesis_test, settings

# How long an example takes says how busy the machine is, not whether the code is right; the suite has per-test timeouts.
# `make test` draws the same examples every time, so that what it says of a change is due to the change. `make fuzz` draws
# new ones, and more of them: what it finds becomes an @example.
_FUZZ = int(os.environ.get("EDGEMODEL_FUZZ", "0"))
settings.register_profile("edgemodel", deadline=None, print_blob=True, derandomize=not _FUZZ)
settings.load_profile("edgemodel")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """EDGEMODEL_FUZZ=N: only properties, with N times as many examples, drawn anew.

    Of several workers, each begins with what takes long: else one of them is done minutes before the other.
    """
    if os.environ.get("PYTEST_XDIST_WORKER"):
        items.sort(key=_is_quick)
    if not _FUZZ:
        return
    items[:] = [i for i in items if isinstance(i, pytest.Function) and is_hypothesis_test(i.obj)]
    for function in {getattr(i.obj, "__func__", i.obj) for i in items if isinstance(i, pytest.Function)}:
        wanted = function._hypothesis_internal_use_settings
        function._hypothesis_internal_use_settings = settings(wanted, max_examples=wanted.max_examples * _FUZZ)


def pytest_collection_finish() -> None:
    """What is loaded by now stays to the end: no collection of garbage need look through it again."""
    gc.collect()
    gc.freeze()


def _is_quick(item: pytest.Item) -> bool:
    timeout = item.get_closest_marker("timeout")
    return item.get_closest_marker("slow") is None and (timeout is None or timeout.args[0] <= 120)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line a folder, for who looks at the end alone: `tests/unit: 3672 passed, 1 skipped`."""
    counts: dict[str, Counter[str]] = {}
    for outcome in ("passed", "failed", "error", "skipped", "xfailed", "xpassed"):
        for report in terminalreporter.stats.get(outcome, ()):
            folder = "/".join(report.nodeid.partition("::")[0].split("/")[:2])
            counts.setdefault(folder, Counter())[outcome] += 1
    for folder, found in sorted(counts.items()):
        terminalreporter.write_line(f"{folder}: {', '.join(f'{count} {outcome}' for outcome, count in found.items())}")


# Tests of the pipeline take as long where QEMU is installed as where it is not; tests/integration/verify turns it on.
os.environ.setdefault("EDGEMODEL_EMULATION", "off")
# Nor does what an earlier run measured make this one pass; tests of the cache turn it on.
os.environ.setdefault("EDGEMODEL_CANDIDATES", "off")


class RealPrometheus:
    """A Prometheus that scrapes `text` (exposition format) every 200 ms; the program itself, not a fake."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.text = ""

    def says(self, query: str) -> list[float]:
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query}).json()
        return [float(one["value"][1]) for one in answer["data"]["result"]]

    def expose(self, text: str, query: str, value: float) -> None:
        """Until it is seen there."""
        self.text = f"{text}\n"
        deadline = time.monotonic() + 20
        while self.says(query) != [value]:
            assert time.monotonic() < deadline, (query, self.says(query))
            time.sleep(0.05)


@contextmanager
def _running(folder: Path) -> Iterator[RealPrometheus]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "testbed"))
    import build  # the test bed's: the system's Prometheus, or Debian's

    found = RealPrometheus(f"http://127.0.0.1:{_free_port()}")

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            # It hangs up where an answer takes longer than the time of a scrape.
            with suppress(ConnectionError):
                self.wfile.write(found.text.encode())

        def log_message(self, *_: object) -> None:
            pass

    exporter = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=exporter.serve_forever, daemon=True).start()
    config = folder / "prometheus.yml"
    config.write_text(
        "scrape_configs: [{job_name: t, scrape_interval: 200ms, scrape_timeout: 200ms,"
        f" static_configs: [{{targets: ['127.0.0.1:{exporter.server_port}']}}]}}]\n"
    )
    command = [
        str(build.prometheus() / "prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={found.url.removeprefix('http://')}",
    ]  # fmt: skip
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while not _is_ready(found.url):
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield found
    finally:
        process.terminate()
        process.wait(30)
        exporter.shutdown()
        exporter.server_close()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready").status_code == 200
    except httpx.HTTPError:
        return False


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.fixture(scope="session")
def real_prometheus(tmp_path_factory) -> Iterator[RealPrometheus]:
    """One for all tests that ask it."""
    with _running(tmp_path_factory.mktemp("prometheus")) as found:
        yield found

"""Queries to a real Prometheus, and to servers that are none; measuring in the background."""

from __future__ import annotations

import asyncio
import http.server
import math
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from edgemodel_api.edgemodel_status import AnalysisOutcome
from edgemodel_api.errors import InputError
from edgemodel_operator.domain.analysis import Probe
from edgemodel_operator.metrics import OperatorMetrics
from edgemodel_operator.prometheus import client
from edgemodel_operator.prometheus.client import Prometheus, QueryError
from edgemodel_operator.prometheus.measurer import Measurer


def asked(url, query, **options):
    async def ask():
        prometheus = Prometheus(url, **options)
        try:
            return await prometheus.query(query)
        finally:
            await prometheus.close()

    return asyncio.run(ask())


@pytest.fixture(scope="module")
def series(real_prometheus):
    text = 'errors{node="b"} 0.25\nerrors{node="a"} 0.5\nrequests{node="a"} 0\nlarge{node="a"} +Inf'
    real_prometheus.expose(text, "max(errors)", 0.5)
    return real_prometheus


NUMBERS = {
    "scalar": ("1.5", (1.5,)),
    "one series": ("sum(errors)", (0.75,)),
    "in the order of their labels": ("errors", (0.5, 0.25)),
    "no series": ("nothing_of_that_name", ()),
    "infinity": ("large", (math.inf,)),
}


@pytest.mark.tools
@pytest.mark.parametrize(("query", "numbers"), NUMBERS.values(), ids=NUMBERS)
def test_numbers(series, query, numbers):
    assert asked(series.url, query) == numbers


@pytest.mark.tools
def test_not_a_number(series):
    assert [math.isnan(v) for v in asked(series.url, "requests / requests")] == [True]


REFUSED = {
    "syntax": ("sum(", "refuses the query: "),
    "a range": ("errors[5m]", "the result is a matrix, not a vector"),
    "text": ('"a"', "the result is a string, not a vector"),
}


@pytest.mark.tools
@pytest.mark.parametrize(("query", "words"), REFUSED.values(), ids=REFUSED)
def test_what_prometheus_cannot_answer(series, query, words):
    with pytest.raises(QueryError, match=words):
        asked(series.url, query)


@contextmanager
def answering(answer):
    """A server that answers every POST by `answer(handler)`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            answer(self)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def saying(status, body):
    def answer(handler):
        handler.send_response(status)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


HOSTILE = {
    "a page": (200, b"<html>hello</html>", "not as Prometheus"),
    "not found": (404, b"404 page not found", "answers 404"),
    "forbidden, in JSON": (403, b'{"status": "fail", "data": {}}', "answers 403: is --prometheus-url right"),
    "other JSON": (200, b"[1, 2]", "not as Prometheus"),
    "no numbers": (200, b'{"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, "value": [1, 2]}]}}', "not as"),
    "nested": (200, b"[" * 100_000, "not as Prometheus"),
    "redirect": (302, b"{}", "answers 302"),
    "endless": (200, b"x" * (client.MAX_BYTES + 1), "more than 1 MiB"),
}  # fmt: skip


@pytest.mark.parametrize(("status", "body", "words"), HOSTILE.values(), ids=HOSTILE)
def test_servers_that_are_no_prometheus(status, body, words):
    with answering(saying(status, body)) as url, pytest.raises(QueryError, match=words):
        asked(url, "up")


def test_too_many_series():
    one = '{"metric": {"n": "%d"}, "value": [1, "2"]}'
    result = ",".join(one % n for n in range(client.MAX_SERIES + 1))
    body = f'{{"status": "success", "data": {{"resultType": "vector", "result": [{result}]}}}}'.encode()
    with answering(saying(200, body)) as url, pytest.raises(QueryError, match="1001 series, more than 1000"):
        asked(url, "up")


def test_one_that_drips_is_not_waited_for():
    def drip(handler):
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100):
            try:
                handler.wfile.write(b" ")
                handler.wfile.flush()
            except OSError:
                return
            time.sleep(0.05)

    begin = time.monotonic()
    with answering(drip) as url, pytest.raises(QueryError, match=r"does not answer within 0\.5 s"):
        asked(url, "up", timeout=0.5)
    assert time.monotonic() - begin < 4


def test_nobody_there_and_no_password_told():
    with pytest.raises(QueryError) as caught:
        asked("http://me:secret@127.0.0.1:1/prom", "up")
    assert "http://127.0.0.1:1 cannot be reached" in caught.value.message
    assert "secret" not in caught.value.message


def test_the_token_is_sent_and_read_anew(tmp_path):
    seen = []

    def answer(handler):
        seen.append((handler.path, handler.headers["Authorization"]))
        saying(200, b'{"status": "success", "data": {"resultType": "scalar", "result": [1, "2"]}}')(handler)

    token = tmp_path / "token"
    with answering(answer) as url:
        for text in ("one", "two"):
            token.write_text(f"{text}\n")
            assert asked(f"{url}/prefix/", "up", token_file=token) == (2.0,)
    assert seen == [("/prefix/api/v1/query", "Bearer one"), ("/prefix/api/v1/query", "Bearer two")]


@pytest.mark.parametrize("url", ["prometheus:9090", "ftp://x", "http://", "/path"])
def test_what_is_no_url(url):
    with pytest.raises(InputError, match="--prometheus-url"):
        Prometheus(url)


@pytest.mark.tools
def test_measured_in_the_background(series):
    """At once, then every interval; what is no longer wanted is forgotten."""
    metrics, told = OperatorMetrics(), []
    now = datetime.now(UTC)
    good = Probe("errors", "max(errors)", "value < 1", timedelta(seconds=1), "r", now)
    bad = Probe("all", "errors", "values.all(v, v < 0.3)", timedelta(seconds=60), "r", now)
    lost = Probe("lost", "nothing", "value < 1", timedelta(seconds=60), "r", now)

    async def run():
        measurer = Measurer(Prometheus(series.url), told.append, metrics)
        measurer.start()
        await asyncio.to_thread(measurer.want, "ns/m", (good, bad, lost))
        await asyncio.sleep(2.5)
        found = measurer.measurements("ns/m")
        await asyncio.to_thread(measurer.want, "ns/m", (good,))
        await asyncio.sleep(0.1)
        less = measurer.measurements("ns/m")
        await asyncio.to_thread(measurer.want, "ns/m", ())
        none = measurer.measurements("ns/m")
        await measurer.close()
        return found, less, none

    found, less, none = asyncio.run(run())
    outcomes = {p.name: [m.outcome for m in found if m.probe == p] for p in (good, bad, lost)}
    assert outcomes["errors"] == [AnalysisOutcome.SUCCESS] * 3
    assert outcomes["all"] == [AnalysisOutcome.FAILURE]
    assert outcomes["lost"] == [AnalysisOutcome.INCONCLUSIVE]
    assert next(m.value for m in found if m.probe == bad) == "0.5, 0.25"
    assert len(told) == 5
    assert {m.probe for m in less} == {good}
    assert none == ()
    sample = {"namespace": "ns", "name": "m", "analysis": "errors", "outcome": "Success"}
    assert metrics.registry.get_sample_value("edgemodel_analysis_measurements_total", sample) == 3

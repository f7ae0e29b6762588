"""A real Prometheus scrapes a real agent and its servers; what it then knows is what the objects say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from tests.programs import free_port

from edgemodel_api.edgenode import AssignedModel, AssignedTrial, EdgeNodeSpec

ROOT = Path(__file__).parents[3]


class Prometheus:
    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, query: str) -> dict[tuple[str, ...], float]:
        """Label values (sorted by label's name, without job and instance) → value."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query}, timeout=10).json()
        assert answer["status"] == "success", answer
        skip = ("__name__", "job", "instance")
        return {
            tuple(v for k, v in sorted(one["metric"].items()) if k not in skip): float(one["value"][1])
            for one in answer["data"]["result"]
        }

    def until(self, query: str, good: Callable[[dict], bool]) -> dict[tuple[str, ...], float]:
        deadline = time.monotonic() + 30
        while not good(found := self.ask(query)):
            assert time.monotonic() < deadline, (query, found)
            time.sleep(0.1)
        return found


@pytest.fixture
def scraped(agent, tmp_path) -> Iterator[Prometheus]:
    """The agent's port, and who scrapes it."""
    code = "import build; print(build.prometheus() / 'prometheus')"
    program = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "testbed", capture_output=True, text=True, check=True
    ).stdout.strip()
    target, port = free_port(), free_port()
    agent.metrics_port = target
    jobs = [{"job_name": "t", "honor_labels": True, "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}]
    config = tmp_path / "prometheus.yml"
    intervals = {"scrape_interval": "2s", "scrape_timeout": "2s"}
    config.write_text(json.dumps({"global": intervals, "scrape_configs": jobs}))
    command = [program, f"--config.file={config}", f"--storage.tsdb.path={tmp_path}/tsdb",
               f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]  # fmt: skip
    with (tmp_path / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    yield Prometheus(f"http://127.0.0.1:{port}")
    process.terminate()
    process.wait(30)


@pytest.fixture
def wait_for(scraped) -> Prometheus:
    deadline = time.monotonic() + 30
    while True:
        try:
            if httpx.get(f"{scraped.url}/-/ready").status_code == 200:
                return scraped
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_what_prometheus_knows_of_a_node(agent, registry, wait_for, ask):
    prometheus = wait_for
    source, good = registry.push("r1", (1.0, {}), (2.0, {}))
    bad = registry.one("r2", 1.0, off_by=1.0)
    agent.start("--metrics-port", str(agent.metrics_port))
    trial = AssignedTrial(namespace="default", name="m", revision="r1", candidates=(source, good))
    agent.assign(good, registry.one("other", 3.0), trials=(trial,))
    endpoint = agent.wait_serving(good).running.endpoint
    agent.wait("the trial", lambda a: all(t.done for t in a.status().trials) and a.status().trials)
    for _ in range(7):
        assert ask(endpoint) == 2.0
    for _ in range(3):
        assert httpx.post(f"{endpoint}/infer", json={}).status_code == 400

    mine = '{namespace="default", name="m", revision="r1"}'
    # Inference latency and errors, by model; checks of the agent come by another way and are not requests.
    assert prometheus.until(f"edgemodel_server_inference_seconds_count{mine}", lambda f: list(f.values()) == [7])
    codes = prometheus.until(
        'sum by (code) (edgemodel_server_requests_total{name="m"}) > 0', lambda f: f.get(("400",)) == 3
    )
    assert codes == {("200",): 7, ("400",): 3}
    assert 0 < prometheus.ask(f"edgemodel_server_inference_seconds_sum{mine}")["m", "default", "r1"] < 5
    # Two servers, each with its own process; the agent's own is another series.
    processes = prometheus.ask("edgemodel_server_process_resident_memory_bytes")
    assert set(processes) == {("m", "default", "r1"), ("m2", "default", "other")}
    assert len(prometheus.ask("process_resident_memory_bytes")) == 1
    # Downloads, gates and trials: as the status says.
    status = agent.status()
    bytes_ = prometheus.ask('edgemodel_agent_download_bytes_total{name="m2"}')
    assert bytes_ == {("m2", "default"): next(m for m in status.models if m.name == "m2").downloaded_bytes}
    assert prometheus.ask('edgemodel_agent_download_retries_total{name="m"}') == {("m", "default"): 0}
    assert prometheus.ask('edgemodel_agent_download_seconds_total{name="m"}')["m", "default"] > 0
    assert prometheus.ask("edgemodel_agent_trial_results_total") == {("m", "default", "Passed"): 2}
    info = prometheus.ask('edgemodel_agent_model_info{name="m"}')
    assert info == {(good.digest, "m", "default", "r1", "variant-1"): 1}
    # A revision that this node refuses.
    agent.assign(bad, agent.spec.models[1].target)
    agent.wait_failed(bad)
    checks = prometheus.until("edgemodel_agent_checks_total", lambda f: ("m", "default", "GoldenMismatch") in f)
    assert checks["m", "default", "GoldenMismatch"] == 1
    states = prometheus.until(
        'edgemodel_agent_model_state{name="m"} == 1', lambda f: set(f) == {("m", "default", "Failed")}
    )
    assert states
    assert prometheus.ask('edgemodel_agent_model_serving{name="m"}') == {("m", "default"): 1}


def test_a_server_that_hangs_or_dies_breaks_no_scrape(agent, registry, wait_for):
    prometheus = wait_for
    one, two = registry.one("r1", 1.0), registry.one("r2", 2.0)
    agent.start("--metrics-port", str(agent.metrics_port), "--recheck", "0s")
    agent.assign(one, two)
    agent.wait_serving(one)
    agent.wait_serving(two, "m2")
    prometheus.until("edgemodel_server_model_load_seconds", lambda f: len(f) == 2)
    hung = next(s.pid for s in find(agent) if asks(s) == "m")
    os.kill(hung, signal.SIGSTOP)
    try:
        failures = 'edgemodel_agent_server_scrape_failures_total{name="m"}'
        prometheus.until(failures, lambda f: f.get(("m", "default"), 0) > 1)
        prometheus.until("edgemodel_server_model_load_seconds", lambda f: set(f) == {("m2", "default", "r2")})
        assert list(prometheus.ask("up").values()) == [1]
    finally:
        os.kill(hung, signal.SIGKILL)
    restarts = prometheus.until('edgemodel_agent_restarts_total{name="m"}', lambda f: list(f.values()) == [1])
    assert restarts == {("m", "default"): agent.wait("restarts", lambda a: a.model("m").restarts)}
    prometheus.until("edgemodel_server_model_load_seconds", lambda f: len(f) == 2)


def test_a_models_series_leave_with_it(agent, registry, wait_for):
    prometheus = wait_for
    target = registry.one("r1", 1.0)
    agent.start("--metrics-port", str(agent.metrics_port))
    agent.write(EdgeNodeSpec(models=(AssignedModel(namespace="default", name="m", target=target),)))
    agent.wait_serving(target)
    mine = '{__name__=~"edgemodel_.*", name="m"}'
    assert prometheus.until(f"count({mine})", bool)
    agent.write(EdgeNodeSpec())
    prometheus.until(f"count({mine})", lambda f: not f)
    assert prometheus.ask("edgemodel_agent_build_info")
    health = httpx.get(f"http://127.0.0.1:{agent.metrics_port}/readyz")
    assert health.status_code == 200, health.text


def find(agent) -> list:
    from edgemodel_agent.processes import find_servers

    return list(find_servers(agent.runtime))


def asks(server) -> str:
    import psutil

    line = psutil.Process(server.pid).cmdline()
    return line[line.index("--name") + 1]

"""The cluster's Prometheus scrapes operator and agents by the chart's annotations; what it knows is what the objects say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import httpx
import pytest

from .kube import wait
from .model import steps

REHEARSAL = json.dumps({"fault": "WrongOutput", "at": "Check", "after": 1})
BAD = "edge-2"


def once(series: str) -> str:
    """Each node once: while an agent hands over, its address is scraped by the names of two pods."""
    return f"max without (pod) ({series})"


def seconds_between(rollout: dict[str, Any]) -> float:
    begin, end = (datetime.fromisoformat(rollout[k]) for k in ("startedAt", "finishedAt"))
    return (end - begin).total_seconds()


def test_all_parts_are_scraped(prometheus, nodes):
    up = prometheus.until(
        'up{component=~"operator|agent"}', lambda f: len(f) >= len(nodes) + 1 and set(f.values()) == {1}
    )
    assert up
    assert prometheus.until("count by (node) (edgemodel_agent_build_info)", lambda f: {k[0] for k in f} == set(nodes))
    assert set(prometheus.ask("count by (node) (edgemodel_node_info)")) == {(n,) for n in nodes}
    platforms = set(prometheus.ask("count by (node, platform) (edgemodel_node_info)"))
    assert platforms == set(prometheus.ask("count by (node, platform) (edgemodel_agent_build_info)"))


def test_a_model_from_apply_to_delete(prometheus, model, native_nodes, digits):
    mine = f'namespace="{model.namespace}", name="{model.name}"'
    by_node = {(n,) for n in native_nodes}
    model.apply(compression=steps(47))  # bytes that no node has: those are downloaded
    model.ready(300)
    wait(lambda: set(model.running()) == set(native_nodes), model.told, 120)
    status = model.status()

    # Nodes by state, progress and duration of the rollout.
    counts = {(k,): float(v) for k, v in status["nodes"].items()}
    assert prometheus.until(f"sum by (state) (edgemodel_nodes{{{mine}}})", lambda f: f == counts) == counts
    assert list(prometheus.ask(f"edgemodel_rollout_progress_ratio{{{mine}}}").values()) == [1]
    assert list(prometheus.ask(f"edgemodel_rollout_wave{{{mine}}}").values()) == [0]
    assert list(prometheus.ask(f"edgemodel_ready{{{mine}}}").values()) == [1]
    took = pytest.approx(seconds_between(status["rollout"]), abs=0.01)
    assert list(prometheus.ask(f"edgemodel_rollout_duration_seconds{{{mine}}}").values()) == [took]
    assert prometheus.ask('edgemodel_finished_rollout_duration_seconds_count{result="RolledOut"} >= 1')
    revision = set(prometheus.ask(f"sum by (revision, digest) (edgemodel_revision_info{{{mine}}})"))
    assert revision == {(status["artifact"]["digest"], status["revision"])}

    # The Job, the gates, the trials.
    jobs = prometheus.ask(f"sum by (outcome) (edgemodel_compression_jobs_total{{{mine}}} > 0)")
    assert jobs == {("Succeeded",): 1}
    gates = prometheus.ask(f'sum by (gate) (edgemodel_gate_results_total{{{mine}, accepted="true"}})')
    chosen = sum(v["accepted"] for v in status["variants"])
    assert gates == {("Compression",): status["variantCount"], ("Trial",): chosen}
    tried = prometheus.ask(f"sum by (result) ({once(f'edgemodel_agent_trial_results_total{{{mine}}}')})")
    assert tried == {("Passed",): len(status["candidates"]) * len(status["variants"])}

    # Downloads: what each node fetched, in the trial or for itself.
    for series in ("download_bytes", "download_seconds"):
        assert set(prometheus.ask(f"count by (node) (edgemodel_agent_{series}_total{{{mine}}} > 0)")) == by_node
    retries = prometheus.ask(f"max by (node) (edgemodel_agent_download_retries_total{{{mine}}})")
    assert set(retries) == by_node

    # Inference, and its errors.
    endpoints = model.endpoints()
    for row in range(5):
        for node in native_nodes:
            assert not model.ask(node, row, digits.request(row)).problem
    assert httpx.post(endpoints[native_nodes[0]], json={}, timeout=30).status_code == 400
    count = f"max by (node, revision) (edgemodel_server_inference_seconds_count{{{mine}}})"
    expected = {(n, status["revision"]): 5.0 for n in native_nodes}
    assert prometheus.until(count, lambda f: f == expected) == expected
    codes = f"sum by (code) ({once(f'edgemodel_server_requests_total{{{mine}}}')}) > 0"
    expected = {("200",): 5.0 * len(native_nodes), ("400",): 1.0}
    assert prometheus.until(codes, lambda f: f == expected) == expected
    assert prometheus.ask(f"sum(edgemodel_server_inference_seconds_sum{{{mine}}}) > 0")

    # It goes, and so do its series, from operator, agents and servers.
    model.delete()
    prometheus.until(f'count({{__name__=~"edgemodel_.+", {mine}}})', lambda f: not f)


def test_a_gate_that_refuses(prometheus, model):
    mine = f'namespace="{model.namespace}", name="{model.name}"'
    model.apply(compression={**model.spec["compression"], "budget": {"maxSize": "1Ki"}})
    stalled = model.until("Stalled", seconds=180)
    assert stalled["reason"] == "BudgetExceeded", stalled
    prometheus.until(f"edgemodel_stalled{{{mine}}}", lambda f: list(f.values()) == [1])
    jobs = f"sum by (outcome, reason) (edgemodel_compression_jobs_total{{{mine}}} > 0)"
    assert prometheus.ask(jobs) == {("Refused", "BudgetExceeded"): 1}
    conditions = prometheus.ask(f'sum by (reason, status) (edgemodel_condition{{{mine}, type="Compressed"}})')
    assert conditions == {("BudgetExceeded", "False"): 1}


@pytest.fixture
def one_bad_node(release, bed, nodes) -> Iterator[str]:
    """edge-2's agent gets a fault to rehearse, by a pool of that node's own."""
    pool = {"name": "gameday", "nodeSelector": {"kubernetes.io/hostname": BAD}, "extraArgs": ["--rehearse", REHEARSAL]}
    with release.changed({"agent": {"pools": [*release.values["agent"]["pools"], pool]}}):
        yield BAD


def test_a_rollback(prometheus, rolled_out_natively, one_bad_node):
    model = rolled_out_natively
    mine = f'namespace="{model.namespace}", name="{model.name}"'
    rollbacks = f'edgemodel_rollbacks_total{{{mine}, reason="TooManyFailures"}}'
    before = sum(prometheus.ask(f"sum({rollbacks})").values())  # none yet, if the operator was started since
    model.apply(compression=steps(52))  # bytes that never served anywhere: those are rehearsed upon
    model.until("Stalled", reason="RolledBack", seconds=240)
    prometheus.until(f"sum({rollbacks})", lambda f: list(f.values()) == [before + 1])
    checks = f'sum by (node, result) (edgemodel_agent_checks_total{{{mine}, result!="Passed"}})'
    assert prometheus.until(checks, lambda f: (BAD, "GoldenMismatch") in f)
    assert prometheus.ask(f'edgemodel_condition{{{mine}, type="RolledOut", reason="RolledBack"}}')
    failed = prometheus.ask(f'sum(edgemodel_nodes{{{mine}, state="failed"}})')
    assert list(failed.values()) == [model.status()["nodes"]["failed"]]

"""Which pods Prometheus scrapes. (Pure: needs no cluster.)"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[2] / "testbed" / "discovery.py"
ASKS = {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}


@pytest.fixture(scope="module")
def discovery():
    spec = importlib.util.spec_from_file_location("testbed_discovery", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pod(annotations, *, phase="Running", address="10.0.0.1", labels=None):
    return {
        "metadata": {"name": "p", "namespace": "n", "annotations": annotations, "labels": labels or {}},
        "spec": {"nodeName": "edge-1"},
        "status": {"phase": phase, "podIP": address},
    }


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(pod({}), id="does not ask"),
        pytest.param(pod({**ASKS, "prometheus.io/scrape": "false"}), id="asks not to be"),
        pytest.param(pod({"prometheus.io/scrape": "true"}), id="no port"),
        pytest.param(pod({**ASKS, "prometheus.io/port": "http"}), id="port is no number"),
        pytest.param(pod(ASKS, phase="Succeeded"), id="is over"),
        pytest.param(pod(ASKS, phase="Pending", address=""), id="has no address yet"),
        pytest.param({"metadata": {"name": "p", "namespace": "n"}, "spec": {}}, id="not scheduled"),
    ],
)
def test_a_pod_that_is_no_target(discovery, case):
    assert discovery.targets([case]) == []


def test_a_target_is_named_by_its_pod(discovery):
    notes = {**ASKS, "prometheus.io/path": "/m", "prometheus.io/scheme": "https"}
    assert discovery.targets([pod(notes, labels={"app.kubernetes.io/component": "agent"}), pod(ASKS)]) == [
        {
            "targets": ["10.0.0.1:8080"],
            "labels": {
                "namespace": "n", "pod": "p", "node": "edge-1", "component": "agent",
                "__metrics_path__": "/m", "__scheme__": "https",
            },
        },
        {
            "targets": ["10.0.0.1:8080"],
            "labels": {
                "namespace": "n", "pod": "p", "node": "edge-1", "__metrics_path__": "/metrics", "__scheme__": "http",
            },
        },
    ]  # fmt: skip

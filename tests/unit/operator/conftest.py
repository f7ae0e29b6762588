"""Builders of objects as the API server gives them."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

SPEC = {
    "source": {"uri": "https://example.com/m.onnx", "sha256": "a" * 64},
    "nodePool": {"selector": {"matchLabels": {"pool": "a"}}},
}


@pytest.fixture(scope="session")
def recorded() -> dict:
    """Jobs and their pods as a real kubelet (1.34) and Job controller left them, shortened."""
    return json.loads((Path(__file__).parent / "recorded.json").read_text())


@pytest.fixture
def model_body():
    def make(name="m", *, version=1, namespace="default", uid="u1", **more) -> dict:
        meta = {"name": name, "namespace": namespace, "uid": uid, "generation": 1, "resourceVersion": str(version)}
        return {
            "apiVersion": "edgemodel.dev/v1alpha1", "kind": "EdgeModel", "metadata": meta, "spec": copy.deepcopy(SPEC),
            **more,
        }  # fmt: skip

    return make


@pytest.fixture
def node_body():
    def make(name="n1", *, version=1, labels=None, assigned=(), **status) -> dict:
        return {
            "apiVersion": "edgemodel.dev/v1alpha1",
            "kind": "EdgeNode",
            "metadata": {
                "name": name, "uid": f"uid-{name}", "generation": 1, "resourceVersion": str(version),
                "labels": {"pool": "a"} if labels is None else labels,
            },
            "spec": {"models": list(assigned)},
            "status": status,
        }  # fmt: skip

    return make

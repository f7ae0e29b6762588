"""A node that takes no write, whatever the reason, holds nothing else up."""

from __future__ import annotations

from datetime import UTC, datetime

from edgemodel_operator.k8s import objects
from edgemodel_operator.k8s.cache import Cache
from edgemodel_operator.k8s.client import RejectedError
from edgemodel_operator.k8s.listing import Intake
from edgemodel_operator.k8s.reconcile import Reconciler
from edgemodel_operator.metrics import OperatorMetrics
from edgemodel_operator.prometheus.measurer import Measurer
from edgemodel_operator.settings import parser, settings_of

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
OPTIONS = ["--output", "oci://registry.example.com/models", "--job-image", "registry.example.com/compressor:1"]
TARGET = {"revision": "r", "reference": "oci://x/y", "digest": "sha256:" + "0" * 64, "variant": "int8"}


class Server:
    """It takes no write of the node `bad`."""

    def __init__(self) -> None:
        self.written: list[tuple[str, dict]] = []

    def merge(self, path: str, body: dict) -> dict:
        if path == f"{objects.EDGE_NODES}/bad":
            raise RejectedError("422: a webhook says no")
        self.written.append((path, body))
        name = path.rpartition("/")[2]
        return {"metadata": {**body["metadata"], "name": name, "resourceVersion": "9"}, "spec": body.get("spec", {})}


def test_a_deletion_goes_on(model_body, node_body):
    server, cache, metrics = Server(), Cache(), OperatorMetrics()
    settings = settings_of(parser().parse_args(OPTIONS))
    measurer = Measurer(None, lambda _keys: None, metrics)
    reconciler = Reconciler(server, cache, settings, metrics, measurer, lambda: NOW)
    intake = Intake(cache, settings.offline_after)
    body = model_body()
    body["metadata"] |= {"finalizers": [objects.FINALIZER], "deletionTimestamp": NOW.isoformat()}
    intake.model(body)
    for name in ("bad", "good"):
        intake.node(node_body(name, assigned=[{"namespace": "default", "name": "m", "target": TARGET}]))
    assert reconciler.run("default/m") is None
    (node, spec), (model, meta) = server.written
    assert (node, spec["spec"]["models"]) == (f"{objects.EDGE_NODES}/good", [])
    assert (model, meta["metadata"]["finalizers"]) == (f"{objects.edge_models('default')}/m", [])
    assert reconciler.strays() == {"default/m"}, "it is swept when the node takes it"

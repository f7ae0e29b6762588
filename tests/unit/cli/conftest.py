"""Builders of objects as a rollout leaves them."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from edgemodel_api.edgemodel import EdgeModel
from edgemodel_api.edgenode import (
    ArtifactTarget,
    AssignedModel,
    EdgeNode,
    EdgeNodeSpec,
    EdgeNodeStatus,
    ModelStatus,
    RunningModel,
    TargetState,
)
from edgemodel_api.hardware import Hardware, HardwareClass
from edgemodel_api.meta import ObjectMeta

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
HARDWARE = Hardware(platform="linux/amd64", hardware_class=HardwareClass.AMD64_VNNI)


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def make_model() -> Callable[..., EdgeModel]:
    """spec fields (as YAML would give them) and status → EdgeModel."""

    def make(name: str = "m", status: dict | None = None, **spec) -> EdgeModel:
        document = {
            "apiVersion": "edgemodel.dev/v1alpha1",
            "kind": "EdgeModel",
            "metadata": {"name": name},
            "spec": {"source": {"uri": "file:m.onnx"}, **spec},
            "status": status or {},
        }
        return EdgeModel.model_validate(document)

    return make


@pytest.fixture
def make_node() -> Callable[..., EdgeNode]:
    """A node that was assigned revision `r2` and is in some state; `running`: revision that answers."""

    def make(
        name: str,
        state: TargetState | None = None,
        *,
        running: str = "",
        reason: str = "",
        age: float = 1.0,
        seen: bool = True,
        **labels: str,
    ) -> EdgeNode:
        target = ArtifactTarget(revision="r2", reference="oci-layout:///r", digest="sha256:b", variant="int8")
        assigned = AssignedModel(namespace="default", name="m", target=target)
        status = ModelStatus(
            namespace="default",
            name="m",
            revision="r2",
            variant="int8",
            digest="sha256:b",
            state=state or TargetState.PENDING,
            reason=reason,
            running=RunningModel(
                revision=running,
                variant="int8",
                digest="sha256:b",
                since=NOW,
                endpoint="http://127.0.0.1:1/v2/models/m",
            )
            if running
            else None,
        )
        return EdgeNode(
            metadata=ObjectMeta(name=name, generation=2, labels=labels),
            spec=EdgeNodeSpec(models=(assigned,) if state else ()),
            status=EdgeNodeStatus(
                observed_generation=2 if seen else 1,
                hardware=HARDWARE,
                runtimes={"onnxruntime": "1.32.0"},
                last_report_time=NOW - timedelta(seconds=age),
                models=(status,) if state else (),
            ),
        )

    return make

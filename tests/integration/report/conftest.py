"""Reports, models, nodes and timelines to draw, of any size and with names that mean no good."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from edgemodel_api.edgemodel import Budget, EdgeModel, EdgeModelSpec, Source
from edgemodel_api.edgemodel_status import EdgeModelStatus, RolloutStatus, VariantStatus
from edgemodel_api.edgenode import EdgeNode, EdgeNodeStatus, Measured, ModelStatus, RunningModel, TargetState
from edgemodel_api.hardware import Hardware, HardwareClass
from edgemodel_api.meta import Condition, ObjectMeta
from edgemodel_api.report import Candidate, CompressionReport, Layer, Measurement, QualityBasis, QualityKind, Refusal
from edgemodel_cli.timeline import NodeChange

T0 = datetime(2026, 11, 24, 20, 0, tzinfo=UTC)
NEW, OLD = "3f2a9c81d0e4", "aa11bb22cc33"
AMD64 = Hardware(platform="linux/amd64", hardware_class=HardwareClass.AMD64_VNNI, cpu_model="Example CPU", cores=2)


def measurement(size: int, quality: float = 0.99, latency: float = 0.005, **more: object) -> Measurement:
    return Measurement(
        size_bytes=size,
        file_bytes=size + 1000,
        quality=quality,
        quality_low=quality - 0.004,
        quality_high=quality + 0.004,
        quality_drop=(0.994 - quality) / 0.994,
        latency_median_seconds=latency,
        latency_p99_seconds=latency * 1.3,
        slowdown=latency / 0.0048 - 1,
        peak_memory_bytes=90 * 2**20,
        sparsity=0.25,
        **more,
    )


def candidate(name: str, size: int, quality: float = 0.99, latency: float = 0.0047, **more: object) -> Candidate:
    return Candidate(name=name, measurement=measurement(size, quality, latency), accepted=True, **more)


def refused(name: str, size: int, quality: float, message: str) -> Candidate:
    refusal = Refusal(gate="maxQualityDrop", value=0.1, limit=0.005, message=message)
    return Candidate(name=name, measurement=measurement(size, quality), refusals=(refusal,))


def report_of(candidates: Sequence[Candidate] = (), *, layers: int = 0, **more: object) -> CompressionReport:
    fields = {
        "name": "file-type",
        "revision": NEW,
        "host": AMD64,
        "runtimes": {"onnxruntime": "1.32.0"},
        "quality": QualityBasis(kind=QualityKind.LABELS, metric="Top1", samples=1002),
        "budget": Budget(max_quality_drop="0.5%", max_size="2M", max_latency="6ms"),
        "objective": "Smallest",
        "source": measurement(3_000_000, 0.994, 0.0048),
        "layers": tuple(
            Layer(name=f"dense{i}", op="MatMul", shape=(64, 8), source_bytes=2048, bytes=512 + i, encoding="int8")
            for i in range(layers)
        ),
    }
    return CompressionReport(candidates=tuple(candidates), **{**fields, **more})


USUAL = (
    candidate("int8", 800_000, 0.993, on_front=True),
    candidate("int4", 500_000, 0.9905, chosen=True, on_front=True),
    refused("prune-90", 400_000, 0.4, "quality drops by 59.8%, more than maxQualityDrop 0.5%: prune less"),
    Candidate(name="broken", refusals=(Refusal(gate="Load", message="no kernel for ConvInteger"),)),
)


def model_of(status: EdgeModelStatus | None = None, name: str = "file-type") -> EdgeModel:
    return EdgeModel(
        api_version="edgemodel.dev/v1alpha1",
        kind="EdgeModel",
        metadata=ObjectMeta(name=name),
        spec=EdgeModelSpec(source=Source(uri="file:model.onnx")),
        status=status or EdgeModelStatus(),
    )


def condition(type_: str, status: str, message: str = "", reason: str = "Some") -> Condition:
    return Condition(type=type_, status=status, reason=reason, message=message, last_transition_time=T0)


def rolled_out(*, back: str = "") -> EdgeModelStatus:
    return EdgeModelStatus(
        revision=NEW,
        conditions=(condition("Ready", "False" if back else "True", "3 of 3 nodes serve it"),),
        rollout=RolloutStatus(
            revision=NEW, waves=2, started_at=T0, finished_at=at(20), rolled_back=bool(back), message=back
        ),
        variants=(
            VariantStatus(
                hardware_class=HardwareClass.AMD64_VNNI,
                platform="linux/amd64",
                name="int4",
                digest="sha256:ab",
                size_bytes=500_000,
                latency_median_seconds="0.0047",
                measured_on="node-0",
                message="the smallest of 2",
            ),
        ),
    )


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def change(seconds: float, node: str, state: str, wave: int = 0, revision: str = NEW, **more: str) -> NodeChange:
    return NodeChange(at=at(seconds), node=node, state=state, wave=wave, revision=revision, **more)


def life(node: str, wave: int, begin: float) -> list[NodeChange]:
    """Of a node on which all goes well."""
    steps = [(0.0, "Pending"), (0.2, "Downloading"), (0.5, "Downloaded")]
    first = [change(s, node, state, -1) for s, state in steps]
    return [*first, change(begin, node, "Checking", wave), change(begin + 1, node, "Serving", wave)]


def node_of(name: str, state: TargetState = TargetState.SERVING, message: str = "") -> EdgeNode:
    status = ModelStatus(
        namespace="default",
        name="file-type",
        revision=NEW,
        variant="int4",
        state=state,
        message=message,
        measured=Measured(latency_median_seconds="0.0047", golden_error="0.01"),
        running=RunningModel(
            revision=NEW, variant="int4", digest="sha256:ab", since=T0, endpoint="http://127.0.0.1:4000"
        ),
    )
    return EdgeNode(metadata=ObjectMeta(name=name), status=EdgeNodeStatus(hardware=AMD64, models=(status,)))


def fleet(count: int) -> tuple[tuple[EdgeNode, ...], list[NodeChange]]:
    """Nodes in two waves, and their timeline."""
    names = [f"node-{i}" for i in range(count)]
    changes = [c for i, name in enumerate(names) for c in life(name, min(i, 1), 1.0 + 5 * min(i, 1))]
    return tuple(map(node_of, names)), changes


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """The builders above, as tests cannot import a conftest."""
    found: dict[str, Callable[..., object]] = {
        f.__name__: f
        for f in (
            at, candidate, change, condition, fleet, life, measurement, model_of, node_of, refused, report_of, rolled_out,
        )
    }  # fmt: skip
    return SimpleNamespace(**found, T0=T0, NEW=NEW, OLD=OLD, USUAL=USUAL)

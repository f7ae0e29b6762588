"""The compression report: what each candidate cost and saved, with the gate's verdicts. JSON beside the artifact."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from .base import StatusModel
from .edgemodel import Budget
from .hardware import Hardware


class QualityKind(StrEnum):
    """Labels: against the truth. Agreement: how often (or how closely) the answers equal the source's."""

    LABELS = "Labels"
    AGREEMENT = "Agreement"
    NONE = "None"


class QualityBasis(StatusModel):
    """What the quality numbers mean. Higher is better, except for MeanSquaredError."""

    kind: QualityKind
    metric: str
    samples: int = 0
    higher_is_better: bool = True


class Measurement(StatusModel):
    """One model file, measured in the same run as the source."""

    size_bytes: int = Field(description="Stored layer (what a node downloads).")
    file_bytes: int = Field(description="Expanded file (what the runtime loads).")
    quality: float | None = None
    quality_low: float | None = Field(None, description="Lower end of the 95 % interval.")
    quality_high: float | None = None
    quality_drop: float | None = Field(
        None, description="Relative to the source: (source - this) / |source|; a fraction."
    )
    latency_median_seconds: float | None = None
    latency_p99_seconds: float | None = None
    slowdown: float | None = Field(None, description="Median latency over the source's, minus 1; a fraction.")
    peak_memory_bytes: int | None = None
    samples: int | None = Field(
        None, description="How many samples the quality was measured on; fewer than all where these settled it."
    )
    sparsity: float | None = Field(
        None,
        description="Share of exact zeros among all weights, counted after pruning (quantizing rounds more to zero).",
    )


class Refusal(StatusModel):
    """A gate that said no."""

    gate: str = Field(
        description="maxQualityDrop, maxSize, maxLatency, maxMemory, maxSlowdown; Size: not smaller than the source; Load."
    )
    value: float | None = None
    limit: float | None = None
    message: str = Field(description="With the number, the limit and what to change.")


class Candidate(StatusModel):
    """One way to compress the model."""

    name: str
    encoding: str = ""
    recipe: tuple[str, ...] = Field((), description="The steps applied, in words.")
    platforms: tuple[str, ...] = ()
    hardware_classes: tuple[str, ...] = ()
    digest: str | None = Field(None, description="Manifest digest on the first platform; None: not in the artifact.")
    measurement: Measurement | None = None
    accepted: bool = False
    refusals: tuple[Refusal, ...] = ()
    on_front: bool = False
    chosen: bool = False
    quantized_nodes: int = 0
    notes: tuple[str, ...] = ()


class Layer(StatusModel):
    """One weight of the source, and what became of it in the chosen candidate. Bytes are compressed ones, as stored."""

    name: str
    node: str = ""
    op: str = ""
    shape: tuple[int, ...] = ()
    source_bytes: int = 0
    bytes: int = 0
    sparsity: float = 0.0
    encoding: str = "float32"
    sensitivity: float | None = Field(None, description="Output error when only this layer is quantized.")


class CompressionReport(StatusModel):
    """Everything a person needs to judge the compression."""

    schema_version: int = 1
    namespace: str = ""
    name: str = ""
    revision: str = ""
    source_sha256: str = ""
    host: Hardware | None = None
    runtimes: dict[str, str] = Field(default_factory=dict)
    quality: QualityBasis
    budget: Budget = Budget()
    objective: str = ""
    source: Measurement
    candidates: tuple[Candidate, ...] = ()
    layers: tuple[Layer, ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0

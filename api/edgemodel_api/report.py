"""The compression report: what each candidate cost and saved, with the gate's verdicts. JSON beside the artifact."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from .base import StatusModel
from .edgemodel import Budget, Format
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


class VerifiedHow(StrEnum):
    """Native: on a CPU of that class. Emulated: by an emulator of a named CPU. No: not run on that class."""

    NATIVE = "Native"
    EMULATED = "Emulated"
    NO = "No"


class Verification(StatusModel):
    """A candidate's answers on one hardware class, beside the source's answers on this machine."""

    hardware_class: str
    how: VerifiedHow = VerifiedHow.NO
    cpu: str = Field("", description="The CPU, or the emulated one's name, such as `qemu Haswell`.")
    samples: int = 0
    quality: float | None = None
    quality_drop: float | None = Field(None, description="Relative to the source's on the same samples; a fraction.")
    max_error: float | None = Field(
        None, description="‖there − here‖₂ / ‖here‖₂ over the outputs: how far that CPU's answers are from this one's."
    )
    holds: bool | None = Field(
        None,
        description="Whether the file runs there and keeps maxQualityDrop (or loses no more than here). Absent: not known.",
    )
    message: str = ""


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
    verified: tuple[Verification, ...] = ()
    repairs: tuple[str, ...] = Field((), description="What was changed because integers saturated, and on which CPUs.")
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
    quality_drop: float | None = Field(
        None, description="Quality drop when only this layer is quantized, relative to the source's; a fraction."
    )
    latency_seconds: float | None = Field(None, description="Of this layer in the source, median of runs, one thread.")
    quantized_latency_seconds: float | None = Field(None, description="The same layer in the chosen candidate.")


class Original(StatusModel):
    """A source that is no ONNX file: how far the ONNX model that was made of it is from it."""

    format: Format
    sha256: str
    size_bytes: int = Field(0, description="As a stored layer.")
    file_bytes: int = 0
    ran_with: str = Field("", description="What ran the file, such as `LiteRT 2.3.0`.")
    cases: int = 0
    max_error: float | None = Field(
        None, description="Largest over the outputs of mean ‖onnx − original‖₂ / ‖original‖₂."
    )
    agreement: float | None = Field(None, description="Share of the cases with the same arg max.")
    tolerance: float | None = Field(None, description="The largest error that is allowed.")
    notes: tuple[str, ...] = Field((), description="What the reading decided.")


class Conversion(StatusModel):
    """A float model as a file of another format, beside the ONNX model that it was made of, on the golden cases."""

    format: str
    candidate: str = Field(description="The float model that it was made of: `source`, or the steps that made it.")
    name: str = Field("", description="Of the variant.")
    platforms: tuple[str, ...] = ()
    digest: str | None = Field(None, description="Manifest digest on the first platform; None: not in the artifact.")
    encoding: str = Field("", description="float32, float16, int8-weights, int8-full, palettized, …")
    size_bytes: int = Field(0, description="Stored layer.")
    file_bytes: int = 0
    ran_with: str = Field("", description="Such as `LiteRT 2.3.0`; for Core ML: what checked it, as it was not run.")
    cases: int = 0
    max_error: float | None = Field(None, description="Largest over the outputs of mean ‖format − onnx‖₂ / ‖onnx‖₂.")
    agreement: float | None = Field(None, description="Share of the cases with the same arg max.")
    quality: float | None = None
    quality_drop: float | None = Field(None, description="Relative to the source's; a fraction.")
    accepted: bool = False
    message: str = Field("", description="Why it is refused.")
    notes: tuple[str, ...] = Field((), description="What the conversion decided and found.")


class Diagnosis(StatusModel):
    """Why no candidate keeps the budget, and what would."""

    gates: tuple[str, ...] = Field((), description="The budget's fields that stop the best candidates.")
    nearest: str | None = Field(None, description="The candidate that misses by least.")
    missing: dict[str, float] = Field(
        default_factory=dict, description="For each of its gates by how much it misses, as a fraction of the limit."
    )
    costly_layers: tuple[str, ...] = Field((), description="Nodes that cost most quality, the worst first.")
    suggestions: tuple[str, ...] = Field((), description="What would have to be given up, with the numbers.")


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
    formats: tuple[Format, ...] = Field((Format.ONNX,), description="What files the artifact holds.")
    source: Measurement
    original: Original | None = Field(None, description="The user's file, where that was no ONNX file.")
    candidates: tuple[Candidate, ...] = ()
    layers: tuple[Layer, ...] = ()
    conversions: tuple[Conversion, ...] = ()
    diagnosis: Diagnosis | None = None
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0

"""The contract of the compression Job: a JSON file in, progress lines on standard output, a termination message out.

`python -m edgemodel_compressor --job FILE --result FILE`: exit code 0 succeeded, 1 refused by a gate, 2 invalid
input, 3 failed for another reason (worth another try). The result file is at most 4096 bytes, Kubernetes' limit.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import Field

from .base import StatusModel
from .edgemodel import Compression, Data, EdgeModel, Format, HealthCheck, RemoteFile, Source
from .hardware import HardwareClass

RESULT_LIMIT_BYTES = 4096


class JobSpec(StatusModel):
    """Everything the compressor needs to know."""

    namespace: str
    name: str
    revision: str
    source: Source
    data: Data = Data()
    compression: Compression = Compression()
    formats: tuple[Format, ...] = (Format.ONNX,)
    health_check: HealthCheck = HealthCheck()
    platforms: tuple[str, ...]
    output: str
    """`oci://host/repo` or `oci-layout:///dir`: where the index goes, tagged with the revision."""
    base_dir: str = "."
    """Folder against which relative `file:` URIs are resolved."""
    work_dir: str | None = None
    credentials: dict[str, str] = Field(default_factory=dict)
    """Folders that hold a Secret's keys as files, by what they are for: `source`, `training`, `calibration`, `validation`."""
    volumes_dir: str | None = None
    """Where claims are mounted, each under its name: what `pvc://CLAIM/PATH` means."""
    in_pod: bool = False
    """Whether a cluster runs it, so that messages name what helps there."""
    max_source_bytes: int = 16 * 2**30
    """Of each file that is fetched, and of a model's external data together. (An ONNX file itself ends at 2 GiB.)"""
    seed: int = 0
    workers: int | None = Field(None, ge=1)
    """How many candidates are judged at the same time; None: as many as cores and memory allow. The outcome is the same."""
    cache_dir: str | None = None
    """Where measurements are kept for later runs; None: they are not."""
    deadline_seconds: float | None = None
    """After so long the Job is ended from outside: its search stops early enough to store the best so far."""

    @property
    def files(self) -> dict[str, RemoteFile]:
        """Everything that it reads by URI: `source`, `training`, `calibration`, `validation`, and `student-INDEX` where a
        distill step (its index among the steps) names the student's file.
        """
        found: dict[str, RemoteFile | None] = {
            "source": self.source,
            "training": self.data.training,
            "calibration": self.data.calibration,
            "validation": self.data.validation,
        }
        for index, step in enumerate(self.compression.steps or ()):
            if step.distill is not None:
                found[f"student-{index}"] = step.distill.student.file
        return {what: remote for what, remote in found.items() if remote is not None}

    @classmethod
    def of(cls, model: EdgeModel, *, revision: str, platforms: tuple[str, ...], output: str, base_dir: str) -> Self:
        """The Job that builds this revision of a model."""
        return cls(
            namespace=model.metadata.namespace,
            name=model.metadata.name,
            revision=revision,
            source=model.spec.source,
            data=model.spec.data,
            compression=model.spec.compression,
            formats=model.spec.formats,
            health_check=model.spec.health_check,
            platforms=platforms,
            output=output,
            base_dir=base_dir,
        )


class Outcome(StrEnum):
    """How the Job ended."""

    SUCCEEDED = "Succeeded"
    REFUSED = "Refused"
    INVALID = "Invalid"
    FAILED = "Failed"


class SourceSummary(StatusModel):
    """The yardstick."""

    size_bytes: int
    quality: float | None = None
    latency_median_seconds: float | None = None


class VariantSummary(StatusModel):
    """One manifest of the index (or a refused candidate: `digest` is then None)."""

    platform: str
    name: str
    digest: str | None = None
    size_bytes: int = 0
    file_bytes: int = 0
    quality: float | None = None
    latency_median_seconds: float | None = None
    accepted: bool = True
    reason: str = ""
    hardware_classes: tuple[HardwareClass, ...] = ()
    format: Format | None = None
    """What the file is; None: ONNX. (The termination message has no room for what nearly all variants are.)"""


class JobResult(StatusModel):
    """The termination message. `variants` of a succeeded Job: source first, then by objective."""

    outcome: Outcome
    reason: str = ""
    message: str = ""
    digest: str | None = None
    reference: str | None = None
    report_digest: str | None = None
    source: SourceSummary | None = None
    variants: tuple[VariantSummary, ...] = ()


class Progress(StatusModel):
    """One line of JSON on the Job's standard output. `total` 0: unknown."""

    stage: str
    done: int = 0
    total: int = 0
    message: str = ""

"""One face of the writers of formats besides ONNX. Their libraries are imported when they are used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from edgemodel_api.artifact import MODEL_FILES
from edgemodel_api.edgemodel import Format
from edgemodel_compressor.evaluate.runner import Arrays, Run

__all__ = ["COREML_PLATFORM", "FLOAT32", "WRITERS", "Arrays", "Writer", "Written"]

#: Where Core ML runs. No node of a pool is one: the files are for `oras pull` and an app's build.
COREML_PLATFORM = "darwin/arm64"
FLOAT32 = "float32"


@dataclass(frozen=True)
class Written:
    """A file.

    Attributes:
        path: of it.
        notes: what was decided and found.
        free_batch: whether one run takes any number of rows.
    """

    path: Path
    notes: tuple[str, ...]
    free_batch: bool


class Writer(Protocol):
    """Of one format."""

    @property
    def package(self) -> str:
        """Whose version the report names."""

    @property
    def runs_here(self) -> bool:
        """Whether its own runtime is on this machine, so that quality can be measured on all the data."""

    def ran_with(self) -> str:
        """For the report."""

    def platforms(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """Under which of the index its variants stand, given the Job's."""

    def encodings(self, *, calibrated: bool, sparse: bool) -> tuple[str, ...]:
        """All that can be tried, the most exact first; `sparse`: the model has zeros."""

    def unsupported(self, model: Any, feeds: Arrays) -> tuple[str, ...]:
        """Nodes that cannot be converted: "node NAME (Op): why"."""

    def convert(self, model: Any, dest: Path, *, encoding: str, calibration: Arrays | None, feeds: Arrays) -> Written:
        """Write a file, checked against the ONNX model.

        Raises:
            InputError: it cannot be written, or answers otherwise.
        """

    def runs(self, path: Path, *, threads: int = 1) -> tuple[Run, ...]:
        """The ways in which a device may run it, the usual one first.

        Raises:
            InputError: it cannot be opened.
        """

    def close(self) -> None:
        """End what was started for it."""


@dataclass(frozen=True)
class _TFLite:
    package: str = "ai-edge-litert"
    runs_here: bool = True

    def ran_with(self) -> str:
        from .tflite import runtime

        return runtime()

    def platforms(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(wanted)))

    def encodings(self, *, calibrated: bool, sparse: bool) -> tuple[str, ...]:
        from .tflite import ENCODINGS, INT8_FULL

        return tuple(e for e in ENCODINGS if calibrated or e != INT8_FULL)

    def unsupported(self, model: Any, feeds: Arrays) -> tuple[str, ...]:
        from .tflite import unsupported

        return unsupported(model, feeds)

    def convert(self, model: Any, dest: Path, *, encoding: str, calibration: Arrays | None, feeds: Arrays) -> Written:
        from .tflite import INT8_FULL, convert

        ranges = calibration if encoding == INT8_FULL else None
        done = convert(model, dest, encoding=encoding, calibration=ranges, feeds=feeds)
        return Written(done.path, done.notes, done.free_batch)

    def runs(self, path: Path, *, threads: int = 1) -> tuple[Run, ...]:
        """In a child process, as kernels may end it: with XNNPACK and without."""
        from .tflite.worker import WORKER

        def run(*, delegates: bool) -> Run:
            return lambda feeds: WORKER.run(path, feeds, delegates=delegates, threads=threads)

        return run(delegates=True), run(delegates=False)

    def close(self) -> None:
        """The child; the next run starts another."""
        from .tflite.worker import WORKER

        WORKER.close()


@dataclass(frozen=True)
class _CoreML:
    package: str = "coremltools"
    runs_here: bool = False

    def ran_with(self) -> str:
        from .coreml import RAN_WITH

        return RAN_WITH

    def platforms(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        return (COREML_PLATFORM,)

    def encodings(self, *, calibrated: bool, sparse: bool) -> tuple[str, ...]:
        from .coreml import ENCODINGS

        return tuple(e for e in ENCODINGS if sparse or e != "sparse")

    def unsupported(self, model: Any, feeds: Arrays) -> tuple[str, ...]:
        from .coreml import unsupported

        return unsupported(model, feeds)

    def convert(self, model: Any, dest: Path, *, encoding: str, calibration: Arrays | None, feeds: Arrays) -> Written:
        from .coreml import convert

        done = convert(model, dest, encoding=encoding, feeds=feeds)
        # Rows beyond the package's own are run one after the other.
        return Written(done.path, done.notes, free_batch=True)

    def runs(self, path: Path, *, threads: int = 1) -> tuple[Run, ...]:
        from .coreml import open_run

        return (open_run(path),)

    def close(self) -> None:
        """Nothing runs."""


WRITERS: Mapping[Format, Writer] = MappingProxyType({Format.TFLITE: _TFLite(), Format.COREML: _CoreML()})


def file_name(wanted: Format, name: str) -> str:
    """Of a variant's file in the work folder.

    >>> file_name(Format.COREML, "coreml-float16")
    'coreml-float16.mlpackage.zip'
    """
    return MODEL_FILES[wanted].replace("model", name, 1)

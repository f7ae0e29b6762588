"""What the server needs of a runtime: typed inputs and outputs, and `run`. Names of types are Open Inference Protocol's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Arrays = dict[str, Array]

#: Open Inference Protocol datatype → numpy type. BYTES are arrays of `str` objects (ONNX strings are UTF-8).
DATATYPES: Mapping[str, np.dtype[np.generic]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}


@dataclass(frozen=True)
class TensorSpec:
    """One input or output. In `shape` None is any size; an empty shape is a scalar or not declared."""

    name: str
    datatype: str
    shape: tuple[int | None, ...]

    def admits(self, shape: Sequence[int]) -> bool:
        """Whether an array of this shape may be fed."""
        if not self.shape:
            return True
        return len(shape) == len(self.shape) and all(
            want in (None, got) for want, got in zip(self.shape, shape, strict=True)
        )


class Runtime(Protocol):
    """A loaded model. `run` may be called from several threads at once."""

    @property
    def platform(self) -> str:
        """Name of the runtime, as model metadata gives it, e.g. `onnxruntime_onnx`."""

    @property
    def version(self) -> str:
        """Version of the runtime's library."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """In the model's order."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """In the model's order."""

    @classmethod
    def load(cls, path: Path, *, threads: int) -> Self:
        """Load a file.

        Raises:
            InputError: it cannot be loaded.
        """

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> Arrays:
        """One inference; all outputs, or the named ones, in that order.

        Raises:
            InputError: the model does not accept the feeds.
        """


def fixed_rows(inputs: Sequence[TensorSpec]) -> int:
    """The batch that the model insists on, 1 if it takes any: the rows of one golden case."""
    return next((s.shape[0] for s in inputs if s.shape and s.shape[0]), 1)


def blank(inputs: Sequence[TensorSpec]) -> Arrays:
    """Zeros (empty strings) of the smallest shape that the model admits."""
    feeds: Arrays = {}
    for spec in inputs:
        shape = tuple(1 if d is None else d for d in spec.shape)
        fill = "" if spec.datatype == "BYTES" else 0
        feeds[spec.name] = np.full(shape, fill, DATATYPES[spec.datatype])
    return feeds

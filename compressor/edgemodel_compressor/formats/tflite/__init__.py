"""TFLite files from ONNX models, and running them."""

from edgemodel_compressor.formats.equivalence import Equivalence

from .run import open_run, run, runtime
from .write import (
    ENCODINGS,
    FLOAT16,
    FLOAT32,
    INT8_FULL,
    INT8_WEIGHTS,
    OPS,
    Converted,
    convert,
    unsupported,
)

__all__ = [
    "ENCODINGS",
    "FLOAT16",
    "FLOAT32",
    "INT8_FULL",
    "INT8_WEIGHTS",
    "OPS",
    "Converted",
    "Equivalence",
    "convert",
    "open_run",
    "run",
    "runtime",
    "unsupported",
]

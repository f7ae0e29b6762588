"""TFLite files from ONNX models, and running them."""

from .equivalence import Equivalence, compare
from .run import open_run, run, runtime
from .write import ENCODINGS, OPS, Converted, convert, unsupported

__all__ = [
    "ENCODINGS",
    "OPS",
    "Converted",
    "Equivalence",
    "compare",
    "convert",
    "open_run",
    "run",
    "runtime",
    "unsupported",
]

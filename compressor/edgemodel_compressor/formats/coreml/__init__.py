"""Core ML packages from ONNX models, and running them without Core ML.

coremltools is imported when something is converted or read, not by importing this package.
"""

from edgemodel_compressor.formats.equivalence import Equivalence

from .interpret import RAN_WITH
from .package import unpack
from .session import open_run, run
from .write import ENCODINGS, OPS, Converted, convert, unsupported

__all__ = [
    "ENCODINGS",
    "OPS",
    "RAN_WITH",
    "Converted",
    "Equivalence",
    "convert",
    "open_run",
    "run",
    "unpack",
    "unsupported",
]

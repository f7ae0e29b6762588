"""Runtimes execute models: one protocol (`base.Runtime`), one module a format: `onnx` and `tflite`."""

from __future__ import annotations

from pathlib import Path

from edgemodel_api.errors import InputError

from .base import Runtime

__all__ = ["Runtime", "load"]

#: TFLite files are FlatBuffers with this identifier, behind the four bytes of the root's offset.
TFLITE_MAGIC = b"TFL3"
ZIP_MAGIC = b"PK\x03\x04"


def load(path: Path, *, threads: int = 1, copies: int = 1, memory: int | None = None) -> Runtime:
    """Load a model file with the runtime of its format; the runtime's library is imported only now.

    Args:
        path: the model. Its first bytes tell the format, as files in the agent's content store have no suffix: those of
            TFLite, else ONNX (which has no signature of its own).
        threads: threads of one inference.
        copies: inferences that may run at once, where each needs memory of its own (an ONNX session takes any number).
        memory: bytes that the process should not grow beyond for that; None: no limit.

    Raises:
        InputError: the format has no runtime here, or the runtime cannot load the file.
    """
    head = _head(path)
    if head[4:8] == TFLITE_MAGIC:
        from .tflite import TfliteRuntime

        return TfliteRuntime.load(path, threads=threads, copies=copies, memory=memory)
    if head.startswith(ZIP_MAGIC):
        raise InputError(
            "it is a zip, as Core ML packages are, and nodes have no runtime for those: give a TFLite or an ONNX file"
        )
    from .onnx import OnnxRuntime

    return OnnxRuntime.load(path, threads=threads)


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as f:
            return f.read(8)
    except OSError:
        return b""  # onnxruntime says what is wrong with it

"""Runtimes execute models: one protocol (`base.Runtime`), one module a format. ONNX today; TFLite has its room here."""

from __future__ import annotations

from pathlib import Path

from edgemodel_api.errors import InputError

from .base import Runtime

__all__ = ["Runtime", "load"]


def load(path: Path, *, threads: int = 1) -> Runtime:
    """Load a model file with the runtime of its format; the runtime's library is imported only now.

    Args:
        path: the model. Files in the agent's content store have no suffix: they count as ONNX.
        threads: threads of one inference.

    Raises:
        InputError: the format has no runtime here, or the runtime cannot load the file.
    """
    if path.suffix not in ("", ".onnx"):
        raise InputError(f"{path.name} is of a format that this node has no runtime for: give an ONNX file")
    from .onnx import OnnxRuntime

    return OnnxRuntime.load(path, threads=threads)

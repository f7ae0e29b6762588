"""ONNX models, by onnxruntime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from edgemodel_api.errors import InputError

from .base import Array, Arrays, TensorSpec

_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class OnnxRuntime:
    """One `InferenceSession`."""

    platform = "onnxruntime_onnx"

    def __init__(self, session: Any, version: str) -> None:
        self._session = session
        self.version = version
        self.inputs = tuple(_spec("input", i) for i in session.get_inputs())
        self.outputs = tuple(_spec("output", o) for o in session.get_outputs())
        self._names = [o.name for o in self.outputs]

    @classmethod
    def load(cls, path: Path, *, threads: int) -> Self:
        """Open a session.

        The options are those that the compressor measures with: all graph optimizations (they are done here, on the
        CPU that runs them; files are shipped unoptimized), one operator after another, and no spinning, so that an
        idle server takes no CPU.

        Raises:
            InputError: onnxruntime is not here or cannot load the file, or its inputs or outputs are not tensors.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError(
                f"this is an ONNX model, and onnxruntime is not installed on this node ({_last_line(error)}): install it, or"
                " add TFLite to the formats of the model (arm/v7 has no onnxruntime)"
            ) from None

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises many types of its own
            raise InputError(f"onnxruntime {onnxruntime.__version__} cannot load it: {_last_line(error)}") from None
        return cls(session, onnxruntime.__version__)

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> Arrays:
        """One inference.

        Raises:
            InputError: onnxruntime does not accept the feeds.
        """
        names = self._names if outputs is None else list(outputs)
        try:
            values = self._session.run(names, dict(feeds))
        except Exception as error:  # onnxruntime raises many types of its own
            raise InputError(f"the model does not accept these inputs: {_last_line(error)}") from None
        return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1][:300] if lines else type(error).__name__


def _spec(what: str, argument: Any) -> TensorSpec:
    datatype = _DATATYPES.get(argument.type)
    if datatype is None:
        raise InputError(
            f"{what} {argument.name!r} is a {argument.type}, which cannot be served: export the model with tensors of"
            " numbers or strings (scikit-learn: options={'zipmap': False})"
        )
    shape = tuple(d if isinstance(d, int) and d >= 0 else None for d in argument.shape or ())
    return TensorSpec(argument.name, datatype, shape)

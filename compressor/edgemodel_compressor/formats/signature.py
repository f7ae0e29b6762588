"""A model's inputs and outputs, as far as servers and data can handle them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from onnx import TensorProto

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import format_bytes
from edgemodel_compressor.tensor_spec import TensorSpec

from .tensors import MAX_RANK

#: One sample of one input, the free dimensions counted as 1.
MAX_SAMPLE_BYTES = 2**30
MAX_BATCH = 4096
#: Element types that numpy and the runtime share.
_DTYPES: dict[int, np.dtype[Any]] = {
    getattr(TensorProto, name): np.dtype(dtype)
    for name, dtype in {
        "FLOAT": np.float32, "DOUBLE": np.float64, "FLOAT16": np.float16, "BOOL": np.bool_, "STRING": np.str_,
        "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
        "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    }.items()
}  # fmt: skip


def inputs_of(graph: Any) -> tuple[TensorSpec, ...]:
    """Inputs that a request must have: those without a default.

    Raises:
        InputError: none, no tensors, gigantic ones, or none with an axis for samples.
    """
    defaults = {tensor.name for tensor in graph.initializer}
    specs = tuple(_spec(value, "input") for value in graph.input if value.name not in defaults)
    if not specs:
        raise InputError("the model has no inputs but its own weights: export it with the input that data goes to")
    for spec in specs:
        if not spec.shape:
            raise InputError(
                f"input {spec.name!r} is a scalar: every input needs a first axis for samples; make it an initializer,"
                " or give it shape [batch]"
            )
        if len(spec.shape) > MAX_RANK:
            raise InputError(f"input {spec.name!r} has {len(spec.shape)} dimensions, at most {MAX_RANK} are possible")
        if (spec.shape[0] or 1) > MAX_BATCH:
            raise InputError(
                f"input {spec.name!r} takes {spec.shape[0]} samples at a time, at most {MAX_BATCH} are possible: export"
                " the model with a free or smaller batch dimension"
            )
        if 0 in spec.shape:
            raise InputError(f"input {spec.name!r} has shape {list(spec.shape)}: a dimension of 0 takes no data")
        size = math.prod(d or 1 for d in spec.shape) * max(1, spec.dtype.itemsize)
        if size > MAX_SAMPLE_BYTES:
            raise InputError(
                f"input {spec.name!r} has shape {spec.shape_text}: one request would take {format_bytes(size)}, more"
                f" than {format_bytes(MAX_SAMPLE_BYTES)}: export the model with smaller inputs"
            )
    batches = {spec.shape[0] for spec in specs if spec.shape[0] is not None}
    if len(batches) > 1:
        shapes = ", ".join(f"{s.name} {s.shape_text}" for s in specs)
        raise InputError(
            f"the inputs differ in their first dimension, the samples ({shapes}): export all with one batch dimension"
        )
    return specs


def outputs_of(graph: Any) -> tuple[TensorSpec, ...]:
    """All outputs; what is not declared has shape `()`.

    Raises:
        InputError: one is no tensor.
    """
    return tuple(_spec(value, "output") for value in graph.output)


def fixed_batch(inputs: tuple[TensorSpec, ...]) -> int | None:
    """The first dimension, where it is a number."""
    return next((spec.shape[0] for spec in inputs if spec.shape[0] is not None), None)


def _spec(value: Any, kind: str) -> TensorSpec:
    held = value.type.WhichOneof("value")
    if held is None and kind == "output":
        # Allowed, and left to the runtime's inference.
        return TensorSpec(value.name, np.dtype(np.float32), ())
    if held != "tensor_type":
        word = {"sequence_type": "sequence", "map_type": "map", "optional_type": "optional value"}.get(held, "")
        word = word or ("sparse tensor" if held == "sparse_tensor_type" else "value without a type")
        hint = "; scikit-learn: options={'zipmap': False}" if kind == "output" else ""
        article = "an" if word[0] in "aeiou" else "a"
        raise InputError(
            f"{kind} {value.name!r} is {article} {word}, and only tensors can be sent to a server: export with tensors{hint}"
        )
    tensor = value.type.tensor_type
    dtype = _DTYPES.get(tensor.elem_type)
    if dtype is None:
        name = (
            TensorProto.DataType.Name(tensor.elem_type)
            if tensor.elem_type in TensorProto.DataType.values()
            else f"number {tensor.elem_type}"
        )
        raise InputError(
            f"{kind} {value.name!r} has element type {name}, which servers cannot take or give: cast it to FLOAT in"
            " the model"
        )
    if not tensor.HasField("shape"):
        if kind == "output":
            return TensorSpec(value.name, dtype, ())
        raise InputError(f"{kind} {value.name!r} has no shape: declare it, with names for dimensions that are free")
    shape = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None for d in tensor.shape.dim)
    return TensorSpec(value.name, dtype, shape)

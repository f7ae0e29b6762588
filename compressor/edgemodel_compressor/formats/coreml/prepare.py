"""An ONNX model made ready: functions written out, free axes fixed, names that MIL accepts.

Core ML compiles a model for shapes. Apps give one sample at a time or hand `MLModel.predictions(from:)` a batch of
samples, each with the model's own shape, and a fixed shape lets the Neural Engine be used; so a free first axis
becomes 1. Other free axes have no such default and must be given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import helper, inliner, shape_inference

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted
from edgemodel_api.reasons import NOT_SUPPORTED

from .names import Names, plain, valid

#: Operators that ONNX itself defines by others, which are taken instead.
WRITTEN_OUT = ("Attention", "RotaryEmbedding")
#: What a caller may give: a shape by input name.
Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Port:
    """An input or output.

    Attributes:
        onnx_name: in the source.
        name: in Core ML.
        dtype: of the source's tensor.
        shape: fixed; of outputs as declared, None where unknown.
        batch: whether the first axis was free and became 1: rows are run one by one.
    """

    onnx_name: str
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    batch: bool


@dataclass(frozen=True)
class Prepared:
    """Attributes:
    model: without local functions.
    inputs: without those that have a default.
    outputs: in order.
    notes: what was changed that a user sees.
    """

    model: Any = field(repr=False)
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    names: Names = field(repr=False)
    notes: tuple[str, ...]


def prepare(model: Any, shapes: Shapes | None = None) -> Prepared:
    """Args:
        model: a ModelProto; stays as it is.
        shapes: for inputs with free axes other than the first.

    Raises:
        InputError: a free axis without a size, or an input that is no tensor.
    """
    wanted = dict(shapes or {})
    if model.functions:
        model = inliner.inline_local_functions(model)
    if any(n.op_type in WRITTEN_OUT and n.domain in ("", "ai.onnx") for n in model.graph.node):
        model = _written_out(model)
    defaults = {t.name for t in model.graph.initializer}
    if unknown := sorted(set(wanted) - {v.name for v in model.graph.input}):
        raise InputError(f"shapes: the model has no input {', '.join(unknown)}")
    notes: list[str] = []
    names = Names()
    batch_words = _batch_words(model, defaults)
    inputs = [
        _input(value, wanted, batch_words, names, notes) for value in model.graph.input if value.name not in defaults
    ]
    free = any(i.batch for i in inputs)
    outputs = tuple(_output(v, names, notes, free, batch_words) for v in model.graph.output)
    if free:
        notes.append(
            "The batch axis is fixed to 1, as Core ML apps expect: more samples go through MLModel's batch prediction"
        )
    return Prepared(model, tuple(inputs), outputs, names, tuple(notes))


def _written_out(model: Any) -> Any:
    """A copy with these operators as ONNX defines them; the inliner wants to know the types of their inputs."""
    typed = type(model)()
    typed.CopyFrom(model)
    known = {v.name for v in (*typed.graph.value_info, *typed.graph.input)}
    for tensor in typed.graph.initializer:
        if tensor.name not in known:
            typed.graph.value_info.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    chosen = [("", op) for op in WRITTEN_OUT]
    try:
        typed = shape_inference.infer_shapes(typed, data_prop=True)
        return inliner.inline_selected_functions(typed, chosen, exclude=False, inline_schema_functions=True)
    except Exception as error:  # onnx raises types of its own
        raise InputError(
            f"Core ML: {' and '.join(WRITTEN_OUT)} cannot be written out ({str(error).splitlines()[0][:200]}): export the"
            " model with the operators that they are made of",
            reason=NOT_SUPPORTED,
        ) from None


def _batch_words(model: Any, defaults: set[str]) -> set[str]:
    """Names that the model gives to free first axes."""
    words = set()
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in defaults and dims and dims[0].WhichOneof("value") == "dim_param":
            words.add(dims[0].dim_param)
    return words - {""}


def _input(
    value: Any, wanted: Mapping[str, Sequence[int]], batch_words: set[str], names: Names, notes: list[str]
) -> Port:
    if value.type.WhichOneof("value") != "tensor_type":
        raise InputError(f"input {value.name!r} is no tensor, and Core ML takes tensors only", reason=NOT_SUPPORTED)
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        raise InputError(f"input {value.name!r} declares no shape: export the model with shapes", reason=NOT_SUPPORTED)
    given = wanted.get(value.name)
    dims = tensor.shape.dim
    if given is not None and len(given) != len(dims):
        raise InputError(
            f"shapes: {value.name} has {counted(len(dims), 'axis', 'axes')}, but"
            f" {counted(len(given), 'size was', 'sizes were')} given"
        )
    shape: list[int] = []
    batch = False
    for i, dim in enumerate(dims):
        fixed = dim.WhichOneof("value") == "dim_value" and dim.dim_value > 0
        if fixed:
            if given is not None and int(given[i]) != dim.dim_value:
                raise InputError(f"shapes: axis {i} of {value.name} is {dim.dim_value}, not {given[i]}")
            shape.append(int(dim.dim_value))
        elif given is not None:
            shape.append(int(given[i]))
        elif i == 0 or (dim.dim_param and dim.dim_param in batch_words):
            batch = batch or i == 0
            shape.append(1)
        else:
            name = f" ({dim.dim_param})" if dim.dim_param else ""
            raise InputError(
                f"input {value.name!r}: axis {i}{name} is free, and Core ML is given fixed shapes: give its size by"
                f" shapes, or export the model with a fixed one",
                reason=NOT_SUPPORTED,
            )
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return Port(value.name, _named(value.name, "input", names, notes), dtype, tuple(shape), batch)


def _output(value: Any, names: Names, notes: list[str], free: bool, batch_words: set[str]) -> Port:  # noqa: FBT001
    tensor = value.type.tensor_type
    dims = tensor.shape.dim
    # A first axis that is declared to be of fixed size is no batch.
    batch = free and bool(dims) and dims[0].WhichOneof("value") != "dim_value"
    known = value.type.WhichOneof("value") == "tensor_type" and tensor.elem_type
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type)) if known else np.dtype(np.float32)
    shape = tuple(int(d.dim_value) if d.WhichOneof("value") == "dim_value" else None for d in dims)
    return Port(value.name, _named(value.name, "output", names, notes), dtype, shape, batch)


def _named(onnx_name: str, kind: str, names: Names, notes: list[str]) -> str:
    name = names.unique(plain(onnx_name, kind))
    if name != onnx_name:
        why = "Core ML takes letters, digits and _ only" if not valid(onnx_name) else "the name is taken"
        notes.append(f"{kind} {onnx_name!r} is called {name!r}: {why}")
    return name

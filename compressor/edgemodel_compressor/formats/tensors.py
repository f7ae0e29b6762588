"""Tensors inside a model: where they are, whether their bytes fit what they declare, and numbers that are none."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted, format_bytes

from . import kept

#: (op type, index of input) that hold weights: numbers there must be finite.
_WEIGHT_OPS = frozenset(
    {"MatMul", "Gemm", "Conv", "ConvTranspose", "Gather", "LSTM", "GRU", "RNN", "BatchNormalization",
     "LayerNormalization", "InstanceNormalization", "GroupNormalization"}
)  # fmt: skip
_PACKED_4BIT = tuple(getattr(TensorProto, n) for n in ("INT4", "UINT4", "FLOAT4E2M1") if hasattr(TensorProto, n))
_PACKED_2BIT = tuple(getattr(TensorProto, n) for n in ("INT2", "UINT2") if hasattr(TensorProto, n))
#: Field of TensorProto → the types whose numbers it may hold (onnx.proto).
_TYPED = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
MAX_RANK = 32
#: Product of the other dimensions where one is 0: numpy fails on more.
MAX_EMPTY = 2**40
#: Numbers of a large tensor that are looked at together.
_AT_ONCE = 2**20


@dataclass(frozen=True)
class Located:
    """A tensor, and words for where it is."""

    where: str
    tensor: Any
    initializer: bool


def node_label(node: Any, index: int) -> str:
    """`node 'name' (Op)`, or its place where it has no name."""
    return f"node {node.name!r} ({node.op_type})" if node.name else f"node #{index} ({node.op_type})"


def subgraphs(node: Any) -> Iterator[Any]:
    """Graphs in the attributes of a node: branches of If, bodies of Loop and Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def tensors(model: Any) -> Iterator[Located]:
    """Every dense tensor of the model: initializers and attributes, in subgraphs and functions too."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: Any) -> Iterator[Located]:
    for tensor in graph.initializer:
        yield Located(f"initializer {tensor.name!r}", tensor, True)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Any) -> Iterator[Located]:
    for index, node in enumerate(nodes):
        for attribute in node.attribute:
            where = f"attribute {attribute.name!r} of {node_label(node, index)}"
            if attribute.HasField("t"):
                yield Located(where, attribute.t, False)
            for tensor in attribute.tensors:
                yield Located(where, tensor, False)
        for graph in subgraphs(node):
            yield from _graph_tensors(graph)


def declared_bytes(located: Located) -> int:
    """What dims × type come to.

    Raises:
        InputError: an unknown type, a negative dimension, or too many dimensions.
    """
    tensor = located.tensor
    if tensor.data_type not in TensorProto.DataType.values() or tensor.data_type == TensorProto.UNDEFINED:
        raise InputError(f"{located.where} has the unknown data type {tensor.data_type}: export the model again")
    if len(tensor.dims) > MAX_RANK:
        raise InputError(f"{located.where} has {len(tensor.dims)} dimensions, at most {MAX_RANK} are possible")
    if any(d < 0 for d in tensor.dims):
        raise InputError(f"{located.where} has shape {list(tensor.dims)}: no dimension can be negative")
    count: int = math.prod(tensor.dims)
    if count == 0 and math.prod(d for d in tensor.dims if d) > MAX_EMPTY:
        raise InputError(f"{located.where} is empty and yet has shape {list(tensor.dims)}: export the model again")
    if tensor.data_type == TensorProto.STRING:
        return count
    if tensor.data_type in _PACKED_4BIT:
        return (count + 1) // 2
    if tensor.data_type in _PACKED_2BIT:
        return (count + 3) // 4
    return int(count * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def check_content(located: Located) -> None:
    """That the stored numbers are as many as the shape says. For kept tensors and those inside the file.

    Raises:
        InputError: with both numbers.
    """
    tensor = located.tensor
    expected = declared_bytes(located)
    if tensor.HasField("segment"):
        raise InputError(f"{located.where} is stored in segments, which no runtime reads: export the model again")
    shape = f"{list(tensor.dims)} of {TensorProto.DataType.Name(tensor.data_type)}"
    used = [name for name in (*_TYPED, "string_data") if len(getattr(tensor, name))]
    if tensor.HasField("raw_data") or kept.is_kept(tensor):
        if used:
            raise InputError(f"{located.where} stores its numbers twice (raw_data and {used[0]}): export it again")
        size = kept.length_of(tensor) if kept.is_kept(tensor) else len(tensor.raw_data)
        if size != expected or tensor.data_type == TensorProto.STRING:
            raise InputError(
                f"{located.where} holds {counted(size, 'byte')}, but its shape {shape} needs {expected}"
                f" ({format_bytes(expected)}): the file is damaged, export the model again"
            )
        return
    field = helper.tensor_dtype_to_field(tensor.data_type)
    count = math.prod(tensor.dims)
    if tensor.data_type in _PACKED_4BIT or tensor.data_type in _PACKED_2BIT:
        count = expected
    elif tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        count *= 2
    held = len(getattr(tensor, field))
    if held != count or any(name != field for name in used):
        raise InputError(
            f"{located.where} holds {counted(held, 'number')} in {field}"
            + (f" and others in {', '.join(n for n in used if n != field)}" if used and used != [field] else "")
            + f", but its shape {shape} needs {count}: the file is damaged, export the model again"
        )


def weight_names(model: Any) -> frozenset[str]:
    """Names of tensors that nodes use as weights."""
    found: set[str] = set()
    pending = [model.graph.node, *(f.node for f in model.functions)]
    while pending:
        for node in pending.pop():
            if node.op_type in _WEIGHT_OPS:
                found.update(node.input)
            pending.extend(g.node for g in subgraphs(node))
    return frozenset(found)


def check_finite(located: Located, weights: frozenset[str]) -> None:
    """No NaN anywhere but in scalar constants, no infinity in weights (masks hold −Inf rightly).

    Raises:
        InputError: the tensor, how many of its numbers, and which comes first.
    """
    tensor = located.tensor
    if tensor.data_type not in _FLOATS:
        return
    values = array_of(tensor).reshape(-1)
    weight = located.initializer and tensor.name in weights
    if kept.is_kept(tensor) and all(
        np.isfinite(values[i : i + _AT_ONCE]).all() for i in range(0, values.size, _AT_ONCE)
    ):
        return
    nan = np.isnan(values)
    nans = int(nan.sum()) if weight or values.size > 1 else 0
    infinities = int(np.isinf(values).sum()) if weight else 0
    if not nans and not infinities:
        return
    first = int(np.argmax(nan if not infinities else ~np.isfinite(values)))
    parts = [f"{n} {word}" for n, word in ((nans, "NaN"), (infinities, "Inf")) if n]
    raise InputError(
        f"{located.where} holds {' and '.join(parts)} among its {counted(values.size, 'number')} (the first at flat"
        f" index {first}): the training has diverged or the file is damaged; give a checkpoint whose weights are finite"
    )


def array_of(tensor: Any) -> npt.NDArray[Any]:
    """The numbers of a checked tensor, without a copy where they are raw."""
    if kept.is_kept(tensor):
        return kept.array_of(tensor)
    if tensor.HasField("raw_data") and tensor.data_type != TensorProto.BFLOAT16:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        return np.frombuffer(tensor.raw_data, dtype=dtype.newbyteorder("<")).reshape(tuple(tensor.dims))
    return np.asarray(numpy_helper.to_array(tensor))


def no_sparse(model: Any) -> None:
    """Sparse tensors are refused: their declared shape is not bounded by the file's size.

    Raises:
        InputError: names the first.
    """
    pending: list[tuple[Any, Any]] = [(model.graph, model.graph.node), *((None, f.node) for f in model.functions)]
    while pending:
        graph, nodes = pending.pop()
        for sparse in graph.sparse_initializer if graph is not None else ():
            raise InputError(
                f"initializer {sparse.values.name!r} is sparse (shape {list(sparse.dims)}): save it as a dense tensor;"
                " pruned zeros cost next to nothing once they are packed"
            )
        for index, node in enumerate(nodes):
            for attribute in node.attribute:
                if attribute.HasField("sparse_tensor") or len(attribute.sparse_tensors):
                    raise InputError(
                        f"attribute {attribute.name!r} of {node_label(node, index)} is a sparse tensor: make it dense"
                    )
            pending.extend((g, g.node) for g in subgraphs(node))

"""The MIL program of an ONNX model, and what of the model cannot be converted. Nothing is written here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgemodel_api.errors import InputError
from edgemodel_compressor.evaluate.runner import Arrays
from edgemodel_compressor.formats.tensors import node_label

from . import ops_conv, ops_elementwise, ops_index, ops_linear, ops_norm, ops_recurrent, ops_resize, ops_shape
from .library import builder, coremltools, quiet
from .lower import LOWERINGS, MAX_RANK, UNKNOWN, Conversion, Unsupported, Value, kind_of, shape_of
from .prepare import Port, Prepared, Shapes, prepare

_FAMILIES = (ops_conv, ops_elementwise, ops_index, ops_linear, ops_norm, ops_recurrent, ops_resize, ops_shape)
#: The oldest system that reads compressed weights (iOS 16, macOS 13).
TARGET = "iOS16"


@dataclass(frozen=True)
class Built:
    """Attributes:
    program: of MIL; None where there are problems.
    prepared: the model's ends.
    problems: "node NAME (Op): why".
    notes: what the user should know.
    exact: names of constants that are no weights and stay as they are when weights are compressed.
    scalars: names of Core ML's outputs that have no axes in ONNX.
    """

    program: Any = field(repr=False)
    prepared: Prepared = field(repr=False)
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    exact: tuple[str, ...]
    scalars: tuple[str, ...]


def build(model: Any, *, feeds: Arrays | None = None, shapes: Shapes | None = None) -> Built:
    """Convert node by node; a node that fails is recorded, and what depends on it only checked by its operator.

    Args:
        model: a ModelProto that passed the loader's checks; stays as it is.
        feeds: rows whose sizes fix free axes other than the first.
        shapes: the same, by input name.

    Raises:
        InputError: the inputs do not fit Core ML; coremltools is missing.
    """
    prepared = prepare(model, _sizes(model, feeds, shapes))
    coremltools()
    with quiet():
        return _build(prepared)


def _sizes(model: Any, feeds: Arrays | None, shapes: Shapes | None) -> dict[str, tuple[int, ...]]:
    """Free axes beyond the first take the feeds' sizes."""
    wanted = {name: tuple(int(d) for d in shape) for name, shape in (shapes or {}).items()}
    for value in model.graph.input:
        given = (feeds or {}).get(value.name)
        dims = value.type.tensor_type.shape.dim
        if given is None or value.name in wanted or len(dims) != given.ndim or not dims:
            continue
        free = [d.WhichOneof("value") != "dim_value" or d.dim_value <= 0 for d in dims]
        if any(free[1:]):
            first = 1 if free[0] else int(dims[0].dim_value)
            rest = [int(g) if f else int(d.dim_value) for g, f, d in zip(given.shape, free, dims, strict=True)][1:]
            wanted[value.name] = (first, *rest)
    return wanted


def _build(prepared: Prepared) -> Built:
    from coremltools.converters.mil.mil import Function, Program  # type: ignore[import-untyped]

    ct, mb = coremltools(), builder()
    problems = [p for p in map(_unfit, prepared.inputs) if p]
    if problems:
        raise InputError(f"Core ML: {'; '.join(problems)}")
    placeholders = {i.name: _placeholder(mb, i) for i in prepared.inputs}
    program = Program()
    with Function(placeholders, opset_version=ct.target[TARGET]) as function:
        conversion = Conversion(mb, prepared.names, prepared.model)
        for port in prepared.inputs:
            conversion.builder.base = port.name
            conversion.values[port.onnx_name] = _entering(conversion, function.inputs[port.name], port)
        found = _nodes(conversion, prepared.model.graph.node)
        scalars: list[str] = []
        if not found:
            outputs = [_leaving(conversion, port, scalars) for port in prepared.outputs]
            function.set_outputs(outputs)
    if not found:
        program.add_function("main", function)
    return Built(
        program=None if found else program,
        prepared=prepared,
        problems=tuple(found),
        notes=(*prepared.notes, *conversion.notes),
        exact=tuple(conversion.exact),
        scalars=tuple(scalars),
    )


def _unfit(port: Port) -> str | None:
    if port.dtype.kind not in "fiub" and port.dtype.name != "bfloat16":
        return f"input {port.onnx_name!r} is of type {port.dtype}, and Core ML's arrays hold numbers"
    if len(port.shape) > MAX_RANK:
        return f"input {port.onnx_name!r} has {len(port.shape)} axes, Core ML's arrays have at most {MAX_RANK}"
    return None


def _placeholder(mb: Any, port: Port) -> Any:
    from coremltools.converters.mil.mil import types

    kind = {"f": types.fp32, "i": types.int32, "u": types.int32, "b": types.int32}.get(port.dtype.kind, types.fp32)
    return mb.placeholder([int(d or 1) for d in port.shape] or [1], dtype=kind)


def _entering(conversion: Conversion, value: Value, port: Port) -> Value:
    if port.dtype.kind == "b":
        value = conversion.builder.cast(x=value, dtype="bool")
        conversion.note(f"input {port.onnx_name!r} is boolean, in Core ML an int32 of 0 and 1")
    elif port.dtype.name in ("int64", "uint64", "uint32"):
        conversion.note(f"input {port.onnx_name!r} is {port.dtype.name}, in Core ML int32: larger numbers are refused")
    elif port.dtype.name not in ("float32", "int32"):
        wide = "float32" if port.dtype.kind not in "iu" else "int32"
        conversion.note(f"input {port.onnx_name!r} is {port.dtype.name}, in Core ML {wide}")
    return value if port.shape else conversion.builder.squeeze(x=value)


def _leaving(conversion: Conversion, port: Port, scalars: list[str]) -> Value:
    value = conversion.values[port.onnx_name]
    conversion.builder.base = port.name
    value = conversion.var(value)
    if kind_of(value) == "b":
        value = conversion.builder.cast(x=value, dtype="int32")
        conversion.note(f"output {port.onnx_name!r} is boolean, in Core ML an int32 of 0 and 1")
    if not shape_of(value):
        scalars.append(port.name)
        value = conversion.builder.expand_dims(x=value, axes=[0])
    return builder().identity(x=value, name=port.name)


def _nodes(conversion: Conversion, nodes: Any) -> list[str]:
    problems = []
    unknown: set[str] = set()
    for index, node in enumerate(nodes):
        try:
            if unknown.isdisjoint(node.input):
                conversion.convert(node)
                continue
            # Of what follows a node that cannot be converted, only the operators can be judged.
            why = None if node.op_type in LOWERINGS else UNKNOWN
        except Unsupported as error:
            why = str(error)
        except InputError:
            raise
        except Exception as error:  # coremltools raises many types of its own
            why = f"coremltools refuses it ({_first_line(error)})"
        if why is not None:
            problems.append(f"{node_label(node, index)}: {why}")
        unknown.update(node.output)
    return problems


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]

"""The flatbuffer behind a `.tflite` file: writing a `Graph`, and reading a file back into the schema's objects.

The classes are those that the LiteRT package generates from the TFLite schema. What they do not do is done here:
constants are aligned to 16 bytes (the schema's `force_align`, without which ARMv7 kernels fault), equal constants are
stored once, and the same graph gives the same bytes.
"""

from __future__ import annotations

import hashlib
import itertools
from functools import cache
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np

from edgemodel_api.errors import InputError

from .graph import Free, Graph, Op, Shape, Tensor
from .versions import version_of

#: Where a runtime finds the model's inputs and outputs by name.
SIGNATURE = "serving_default"
SCHEMA_VERSION = 3
_IDENTIFIER = b"TFL3"
_ALIGNMENT = 16
#: Flatbuffers address with 32 signed bits.
LIMIT_BYTES = 2**31 - 2**20

TYPES: MappingProxyType[str, str] = MappingProxyType({
    "float32": "FLOAT32", "float16": "FLOAT16", "float64": "FLOAT64", "bool": "BOOL", "int8": "INT8", "int16": "INT16",
    "int32": "INT32", "int64": "INT64", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32",
})  # fmt: skip
#: Options tables whose name does not follow from the operator's.
_OPTIONS = {
    "CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions", "AVERAGE_POOL_2D": "Pool2DOptions",
    "MAX_POOL_2D": "Pool2DOptions", "BATCH_MATMUL": "BatchMatMulOptions", "MEAN": "ReducerOptions",
    "SUM": "ReducerOptions", "REDUCE_MAX": "ReducerOptions", "REDUCE_MIN": "ReducerOptions",
    "REDUCE_PROD": "ReducerOptions", "REDUCE_ANY": "ReducerOptions", "REDUCE_ALL": "ReducerOptions",
    "MAXIMUM": "MaximumMinimumOptions", "MINIMUM": "MaximumMinimumOptions", "PADV2": "PadV2Options",
    "TOPK_V2": "TopKV2Options", "SELECT_V2": "SelectV2Options", "REVERSE_V2": "ReverseV2Options",
    "L2_POOL_2D": "Pool2DOptions", "L2_NORMALIZATION": "L2NormOptions",
    "UNIDIRECTIONAL_SEQUENCE_RNN": "SequenceRNNOptions",
}  # fmt: skip
#: Operators without an options table.
_BARE = frozenset({
    "FLOOR", "CEIL", "ROUND", "SQRT", "RSQRT", "LOG", "SIN", "ELU", "PRELU", "RELU", "RELU6", "LOGISTIC", "TANH",
})  # fmt: skip


@cache
def classes() -> ModuleType:
    """The schema's classes.

    Raises:
        InputError: the package is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated  # type: ignore[import-untyped]
    except ImportError:
        raise InputError("formats: TFLite needs the extra `edgemodel[tflite]`: install it") from None
    return schema_py_generated  # type: ignore[no-any-return]


def enum(kind: str, name: str) -> int:
    """Number of an enumeration's member, such as `enum("Padding", "SAME")`."""
    return int(getattr(getattr(classes(), kind), name))


@cache
def name_of(kind: str, number: int) -> str:
    """The inverse of `enum`."""
    members = vars(getattr(classes(), kind))
    return next((n for n, v in members.items() if v == number and n.isupper()), str(number))


def serialize(graph: Graph, *, description: str, every_name: bool = True) -> bytes:
    """The file.

    Args:
        graph: to write.
        description: of the model.
        every_name: whether tensors that have no wish get a name as well. Tools that quantize a float file go by names; of an
            unrolled sequence they are a tenth of what is stored.

    Raises:
        InputError: it would be larger than a flatbuffer can be.
    """
    import flatbuffers  # type: ignore[import-untyped]

    s = classes()
    tensors = graph.tensors()
    size = sum(t.data.nbytes for t in tensors if t.data is not None)
    if size > LIMIT_BYTES:
        raise InputError(
            f"the weights take {size} bytes, and a TFLite file holds {LIMIT_BYTES} at most: take TFLite out of"
            " spec.formats, or quantize the model"
        )
    index = {id(t): i for i, t in enumerate(tensors)}
    buffers = _Buffers()
    codes = _Codes()
    sub = s.SubGraphT()
    sub.name = "main"
    names = _unique_names(graph, tensors, every=every_name)
    sub.tensors = [_tensor(t, names.get(id(t), ""), buffers) for t in tensors]
    sub.inputs = [index[id(t)] for t in graph.inputs.values()]
    sub.outputs = [index[id(t)] for t in graph.outputs.values()]
    sub.operators = [_operator(op, index, codes) for op in graph.ops]
    signature = s.SignatureDefT()
    signature.signatureKey = SIGNATURE
    signature.inputs = [_map(n, index[id(t)]) for n, t in graph.inputs.items()]
    signature.outputs = [_map(n, index[id(t)]) for n, t in graph.outputs.items()]
    model = s.ModelT()
    model.version = SCHEMA_VERSION
    model.description = description
    model.operatorCodes = codes.tables()
    model.subgraphs = [sub]
    model.buffers = buffers.tables
    model.signatureDefs = [signature]
    builder = flatbuffers.Builder(1024 + size)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def parse(content: bytes) -> Any:
    """A file as the schema's `ModelT`.

    Raises:
        InputError: no TFLite file, or a damaged one.
    """
    if content[4:8] != _IDENTIFIER:
        raise InputError("no TFLite model (its bytes 4 to 8 are not TFL3): export or copy it again")
    try:
        return classes().ModelT.InitFromPackedBuf(content, 0)
    except Exception:  # flatbuffers raises struct.error, TypeError, IndexError, MemoryError, …
        raise InputError("the TFLite model is damaged: export or copy it again") from None


class _Buffers:
    """Number 0 is the empty one, by convention; equal contents share one."""

    def __init__(self) -> None:
        self._aligned = _aligned_buffer()
        self.tables = [self._aligned(None)]
        self._known: dict[bytes, int] = {}

    def number(self, tensor: Tensor) -> int:
        if tensor.data is None:
            return 0
        content = np.ascontiguousarray(tensor.data).reshape(-1).view(np.uint8)
        digest = hashlib.sha256(content.data).digest()
        if digest not in self._known:
            self._known[digest] = len(self.tables)
            self.tables.append(self._aligned(content))
        return self._known[digest]


@cache
def _aligned_buffer() -> Any:
    s = classes()

    class AlignedBufferT(s.BufferT):  # type: ignore[name-defined,misc]
        """As the generated class, but aligned."""

        def Pack(self, builder: Any) -> int:  # noqa: N802
            vector = None
            if self.data is not None:
                count = len(self.data)
                builder.StartVector(1, count, _ALIGNMENT)
                builder.head -= count
                builder.Bytes[builder.head : builder.head + count] = memoryview(self.data)
                vector = builder.EndVector()
            s.BufferStart(builder)
            if vector is not None:
                s.BufferAddData(builder, vector)
            return int(s.BufferEnd(builder))

    return AlignedBufferT


class _Codes:
    def __init__(self) -> None:
        self._known: dict[tuple[str, int], int] = {}

    def number(self, op: Op) -> int:
        return self._known.setdefault((op.code, version_of(op)), len(self._known))

    def tables(self) -> list[Any]:
        made = []
        for code, version in self._known:
            table = classes().OperatorCodeT()
            table.builtinCode = enum("BuiltinOperator", code)
            # Readers before schema 3a look here, where a byte is all there is.
            table.deprecatedBuiltinCode = min(table.builtinCode, 127)
            table.version = version
            made.append(table)
        return made


def _tensor(tensor: Tensor, name: str, buffers: _Buffers) -> Any:
    s = classes()
    table = s.TensorT()
    table.name = name or None
    table.shape = [int(d) for d in tensor.shape]
    if any(isinstance(d, Free) for d in tensor.shape):
        table.shapeSignature = [-1 if isinstance(d, Free) else int(d) for d in tensor.shape]
    table.hasRank = True
    table.type = enum("TensorType", TYPES[tensor.dtype.name])
    table.buffer = buffers.number(tensor)
    if tensor.quantization is not None:
        q = s.QuantizationParametersT()
        q.scale = np.asarray(tensor.quantization.scale, dtype=np.float32)
        q.zeroPoint = np.asarray(tensor.quantization.zero, dtype=np.int64)
        q.quantizedDimension = tensor.quantization.axis
        table.quantization = q
    return table


def _operator(op: Op, index: dict[int, int], codes: _Codes) -> Any:
    s = classes()
    table = s.OperatorT()
    table.opcodeIndex = codes.number(op)
    table.inputs = [-1 if t is None else index[id(t)] for t in op.inputs]
    table.outputs = [index[id(t)] for t in op.outputs]
    kind = options_name(op.code)
    if kind is not None:
        table.builtinOptionsType = enum("BuiltinOptions", kind)
        table.builtinOptions = getattr(s, f"{kind}T")()
        for field, value in op.options.items():
            if not hasattr(table.builtinOptions, field):
                raise AttributeError(f"{kind} has no field {field}")
            setattr(table.builtinOptions, field, value)
    return table


@cache
def options_name(code: str) -> str | None:
    """Name of the options table of an operator; None: it has none."""
    if code in _BARE:
        return None
    found = _OPTIONS.get(code)
    if found is None:
        wanted = code.replace("_", "").lower() + "options"
        found = next((n for n in vars(classes().BuiltinOptions) if n.lower() == wanted), None)
    return found


def _map(name: str, index: int) -> Any:
    table = classes().TensorMapT()
    table.name = name
    table.tensorIndex = index
    return table


def _unique_names(graph: Graph, tensors: list[Tensor], *, every: bool) -> dict[int, str]:
    """By the tensor's id; those without a wish (thousands in an unrolled sequence) get the shortest that is free, or none."""
    names: dict[int, str] = {}
    taken: set[str] = set()
    counts: dict[str, int] = {}
    for name, tensor in (*graph.inputs.items(), *graph.outputs.items()):
        if id(tensor) not in names:
            names[id(tensor)] = name
            taken.add(name)
    for tensor in tensors:
        if tensor.name and id(tensor) not in names:
            name, n = tensor.name, counts.get(tensor.name, 1)
            while name in taken:
                n += 1
                name = f"{tensor.name}_{n}"
            counts[tensor.name] = n
            taken.add(name)
            names[id(tensor)] = name
    if not every:
        return names
    short = (name for n in itertools.count() if (name := f"{n:x}") not in taken)
    return names | {id(t): next(short) for t in tensors if id(t) not in names}


def shape_of(signature: Shape | None, shape: Shape) -> Shape:
    """A tensor table's shape with `Free` where its signature says −1."""
    if signature is None or len(signature) != len(shape):
        return tuple(int(d) for d in shape)
    return tuple(Free(d) if s < 0 else int(d) for s, d in zip(signature, shape, strict=True))

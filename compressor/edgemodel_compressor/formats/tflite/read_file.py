"""A `.tflite` file that may be damaged or hostile, as plain tables: every count, offset and size is checked before it is used.

A flatbuffer is offsets: many tables may be one, and a small file can claim billions of them. So vectors are counted before
they are walked, names have a length, constants must have the bytes that their shapes say, and nothing is copied here: the
numbers are views into the mapped file.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted, format_bytes
from edgemodel_compressor.reading import open_to_read

from .graph import Array, Quantization
from .read_sparse import MAX_EXPANSION, dense
from .schema import TYPES, classes, enum, name_of, options_name

MAGIC = b"TFL3"
#: More than any model has, and little enough to be walked in Python.
MAX_TENSORS, MAX_OPERATORS, MAX_BUFFERS, MAX_CODES, MAX_SUBGRAPHS = 200_000, 100_000, 400_000, 10_000, 10_000
#: Operands of all operators together, and of one.
MAX_OPERANDS, MAX_OPERANDS_EACH = 1_000_000, 8_192
MAX_NAME, MAX_RANK, MAX_DIM = 4_096, 8, 2**31 - 1
_DTYPES = {name: np.dtype(kind) for kind, name in TYPES.items()}
#: Two numbers a byte.
_PACKED = "INT4"


@dataclass(frozen=True)
class SourceTensor:
    """One tensor of the file.

    Attributes:
        name: as it is there; may be empty or not unique.
        shape: as declared, 1 where a dimension is free.
        free: the axes that the signature of the shape leaves free (−1).
        kind: the schema's name of the type, such as INT8.
        dtype: of the stored numbers; None: a type that numpy does not have.
        data: of a constant, a view into the file (int4 unpacked); None: computed, an input, or a variable.
        quantization: of integers that stand for floats.
        variable: whether it keeps its value from run to run.
    """

    name: str
    shape: tuple[int, ...]
    free: tuple[int, ...]
    kind: str
    dtype: np.dtype[Any] | None
    data: Array | None
    quantization: Quantization | None
    variable: bool


@dataclass(frozen=True)
class SourceOp:
    """One operator of the file.

    Attributes:
        place: its number.
        code: TFLite's name, such as CONV_2D; of a custom one `CUSTOM NAME`.
        inputs: tensors by number; −1: left out.
        outputs: tensors by number.
        options: its options table, by the fields' names in the schema's Python classes.
    """

    place: int
    code: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any = field(repr=False)

    @cached_property
    def label(self) -> str:
        """For messages."""
        return f"operator #{self.place} ({self.code})"


@dataclass(frozen=True)
class SourceGraph:
    """What a file says; names of inputs and outputs are its signature's, where it has one.

    Attributes:
        tensors: all of the main subgraph.
        ops: in the order in which they run.
        inputs: name → number of the tensor.
        outputs: name → number of the tensor.
        problems: what of the file as a whole cannot be read.
        size_bytes: of the file.
    """

    tensors: tuple[SourceTensor, ...]
    ops: tuple[SourceOp, ...]
    inputs: dict[str, int]
    outputs: dict[str, int]
    problems: tuple[str, ...]
    size_bytes: int


def is_tflite(path: Path) -> bool:
    """Whether bytes 4 to 8 are TFL3, whatever the file is called."""
    with open_to_read(path, f"model {path.name}") as file:
        return (file.read(8) or b"")[4:8] == MAGIC


def read_file(path: Path) -> SourceGraph:
    """Read and check.

    Args:
        path: a `.tflite` file. It is mapped, and must not change while what was read is in use.

    Raises:
        InputError: it is no TFLite file, damaged, or beyond the limits.
    """
    with open_to_read(path, f"model {path.name}") as file:
        size = file.seek(0, 2)
        if size < 8 or size > 2**40:
            raise InputError(f"no TFLite model ({counted(size, 'byte')}): export or copy it again")
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return read_content(content)


def read_content(content: Any) -> SourceGraph:
    """As `read_file`, of bytes or a mapping."""
    if bytes(content[4:8]) != MAGIC:
        raise InputError("no TFLite model (its bytes 4 to 8 are not TFL3): export or copy it again")
    with _damaged("its tables"):
        return _Reader(content).graph()


@contextmanager
def _damaged(what: str) -> Iterator[None]:
    """Offsets that lead out of the file, strings that are none.

    Raises:
        InputError: in place of whatever the flatbuffers package raises (struct.error, TypeError, ValueError, …).
    """
    try:
        yield
    except InputError:
        raise
    except Exception:
        raise InputError(
            f"the TFLite model is damaged: {what} lead out of the file, or hold what they cannot: export or copy it again"
        ) from None


class _Reader:
    def __init__(self, content: Any) -> None:
        self._content = content
        self._size = len(content)
        self._model = classes().Model.GetRootAs(content, 0)
        self._operands = 0
        self._expanded = MAX_EXPANSION * self._size

    def graph(self) -> SourceGraph:
        model = self._model
        _counted(model.SubgraphsLength(), MAX_SUBGRAPHS, "subgraphs")
        _counted(model.OperatorCodesLength(), MAX_CODES, "operator codes")
        self._buffers = _counted(model.BuffersLength(), MAX_BUFFERS, "buffers")
        if model.SubgraphsLength() == 0:
            raise InputError("the TFLite model has no graph: export it again")
        graph = model.Subgraphs(0)
        count = _counted(graph.TensorsLength(), MAX_TENSORS, "tensors")
        codes = [self._code(model.OperatorCodes(i)) for i in range(model.OperatorCodesLength())]
        tensors = tuple(self._tensor(graph.Tensors(i), i) for i in range(count))
        operators = _counted(graph.OperatorsLength(), MAX_OPERATORS, "operators")
        ops = tuple(self._op(graph.Operators(i), i, codes, count) for i in range(operators))
        inputs = self._numbers(graph, "Inputs", count)
        outputs = self._numbers(graph, "Outputs", count)
        named = self._signature(inputs, outputs)
        problems = []
        if not outputs:
            problems.append("the model has no outputs")
        return SourceGraph(tensors, ops, named[0] or _names(inputs, tensors, "input"),
                           named[1] or _names(outputs, tensors, "output"), tuple(problems), self._size)  # fmt: skip

    def _code(self, table: Any) -> str:
        number = max(int(table.BuiltinCode()), int(table.DeprecatedBuiltinCode()))
        name = name_of("BuiltinOperator", number)
        return f"CUSTOM {_text(table.CustomCode(), 200)}" if name == "CUSTOM" else name

    def _numbers(self, table: Any, field_name: str, limit: int, *, optional: bool = False) -> tuple[int, ...]:
        length = getattr(table, f"{field_name}Length")()
        if length == 0:
            return ()
        self._operands += _counted(length, MAX_OPERANDS_EACH, f"{field_name.lower()} of one operator")
        _counted(self._operands, MAX_OPERANDS, "operands")
        values = tuple(int(v) for v in getattr(table, f"{field_name}AsNumpy")())
        least = -1 if optional else 0
        if any(not least <= v < limit for v in values):
            raise InputError(
                "the TFLite model is damaged: a tensor is named that is not there: export or copy it again"
            )
        return values

    def _op(self, table: Any, place: int, codes: list[str], tensors: int) -> SourceOp:
        index = int(table.OpcodeIndex())
        if not 0 <= index < len(codes):
            raise InputError(
                f"the TFLite model is damaged: operator #{place} has code {index} of {len(codes)}: export or copy it again"
            )
        code = codes[index]
        with _damaged(f"operator #{place} ({code})"):
            inputs = self._numbers(table, "Inputs", tensors, optional=True)
            outputs = self._numbers(table, "Outputs", tensors)
            return SourceOp(place, code, inputs, outputs, _options(code, table))

    def _tensor(self, table: Any, place: int) -> SourceTensor:
        with _damaged(f"tensor #{place}"):
            name = _text(table.Name(), MAX_NAME)
            where = f"tensor #{place} {name[:80]!r}"
            shape = _shape(table, "Shape", where)
            declared = _shape(table, "ShapeSignature", where, least=-1)
            free = tuple(i for i, d in enumerate(declared) if d == -1) if len(declared) == len(shape) else ()
            shape = tuple(1 if i in free and d <= 0 else d for i, d in enumerate(shape))
            if any(d < 0 for d in shape):
                raise InputError(f"{where} has shape {list(shape)}: export the TFLite model again")
            kind = name_of("TensorType", int(table.Type()))
            dtype = _DTYPES.get(kind) if kind != _PACKED else np.dtype(np.int8)
            data = self._data(table, shape, kind, dtype, where)
            return SourceTensor(
                name, shape, free, kind, dtype, data, _quantization(table.Quantization(), shape, dtype, where),
                bool(table.IsVariable()),
            )  # fmt: skip

    def _data(
        self, table: Any, shape: tuple[int, ...], kind: str, dtype: np.dtype[Any] | None, where: str
    ) -> Array | None:
        number = int(table.Buffer())
        if number == 0 or dtype is None:
            return None
        if number >= self._buffers:
            raise InputError(f"{where} has buffer {number} of {self._buffers}: export or copy the TFLite model again")
        buffer = self._model.Buffers(number)
        offset, size = int(buffer.Offset()), int(buffer.Size())
        if offset > 1:
            # Models beyond 2 GiB keep their numbers behind the tables.
            if offset + size > self._size:
                raise InputError(f"{where} lies beyond the end of the file: copy the TFLite model again, whole")
            raw = np.frombuffer(self._content, np.uint8, size, offset)
        elif buffer.DataLength() == 0:
            return None
        else:
            raw = buffer.DataAsNumpy()
        count = math.prod(shape)
        if table.Sparsity() is not None and kind != _PACKED:
            return self._dense(table.Sparsity(), raw, shape, dtype, where)
        wanted = (count + 1) // 2 if kind == _PACKED else count * dtype.itemsize
        if raw.nbytes != wanted:
            raise InputError(
                f"{where} is {kind} {list(shape)}, which takes {format_bytes(wanted)} ({counted(wanted, 'byte')}), and"
                f" {counted(raw.nbytes, 'byte is', 'bytes are')} there: export or copy the TFLite model again"
            )
        if kind == _PACKED:
            return _unpacked(raw, count).reshape(shape)
        if dtype == np.bool_:
            return np.not_equal(raw, 0).reshape(shape)
        found: Array = np.frombuffer(raw, dtype.newbyteorder("<"), count).reshape(shape)
        return found

    def _dense(self, table: Any, raw: Array, shape: tuple[int, ...], dtype: np.dtype[Any], where: str) -> Array:
        if raw.nbytes % dtype.itemsize:
            raise InputError(
                f"{where} has {counted(raw.nbytes, 'byte')} of {dtype}: export or copy the TFLite model again"
            )
        self._expanded -= math.prod(shape) * dtype.itemsize
        if self._expanded < 0:
            raise InputError(
                "the sparse weights of the TFLite model are too large when they are dense: give a smaller model"
            )
        return dense(table, np.frombuffer(raw, dtype.newbyteorder("<")), shape, where)

    def _signature(self, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> tuple[dict[str, int], dict[str, int]]:
        """Names of the main graph's signature; empty where there is none, or where it does not name all of them."""
        model = self._model
        for i in range(_counted(model.SignatureDefsLength(), MAX_SUBGRAPHS, "signatures")):
            table = model.SignatureDefs(i)
            if int(table.SubgraphIndex()) != 0:
                continue
            found = []
            for part, places in (("Inputs", inputs), ("Outputs", outputs)):
                length = _counted(getattr(table, f"{part}Length")(), MAX_OPERANDS_EACH, "names of a signature")
                maps = [getattr(table, part)(j) for j in range(length)]
                names = {_text(m.Name(), MAX_NAME): int(m.TensorIndex()) for m in maps}
                # The order is the graph's, not the alphabet's.
                order = {number: at for at, number in reversed(list(enumerate(places)))}
                names = dict(sorted(names.items(), key=lambda item: order.get(item[1], -1)))
                found.append(names if set(names.values()) == set(places) and "" not in names else {})
            return found[0], found[1]
        return {}, {}


def _counted(count: int, limit: int, what: str) -> int:
    if count > limit:
        raise InputError(f"the TFLite model has {count} {what}, and at most {limit} are read: give a smaller model")
    return int(count)


def _text(value: bytes | None, limit: int) -> str:
    if value is None:
        return ""
    if len(value) > limit:
        raise InputError(f"a name in the TFLite model has {len(value)} bytes, more than {limit}: export it again")
    text = value.decode("utf-8", errors="replace")
    return "".join(c if c.isprintable() else "?" for c in text)


def _shape(table: Any, field_name: str, where: str, *, least: int = -1) -> tuple[int, ...]:
    length = getattr(table, f"{field_name}Length")()
    if length > MAX_RANK:
        raise InputError(f"{where} has {length} dimensions, and TFLite has at most {MAX_RANK}: export the model again")
    dims = tuple(int(v) for v in getattr(table, f"{field_name}AsNumpy")()) if length else ()
    if any(not least <= d <= MAX_DIM for d in dims):
        raise InputError(f"{where} has shape {list(dims)}: export the TFLite model again")
    return dims


def _unpacked(raw: Array, count: int) -> Array:
    """int4 numbers, the low half of a byte first."""
    pairs = np.stack([raw << 4, raw & 0xF0], axis=1).reshape(-1)[:count].view(np.int8)
    return pairs >> 4


def _quantization(table: Any, shape: tuple[int, ...], dtype: np.dtype[Any] | None, where: str) -> Quantization | None:
    if table is None or dtype is None or dtype.kind not in "iu" or table.ScaleLength() == 0:
        return None
    count = int(table.ScaleLength())
    axis = int(table.QuantizedDimension())
    if count > 1 and not (0 <= axis < len(shape) and count == shape[axis]):
        raise InputError(
            f"{where} has {count} scales along axis {axis}, and shape {list(shape)}: export the TFLite model again"
        )
    scale = np.array(table.ScaleAsNumpy(), dtype=np.float32)
    zeros = int(table.ZeroPointLength())
    if zeros not in (0, 1, count):
        raise InputError(
            f"{where} has {counted(count, 'scale')} and {counted(zeros, 'zero point')}: export the TFLite model again"
        )
    zero = np.array(table.ZeroPointAsNumpy(), dtype=np.int64) if zeros else np.zeros(count, np.int64)
    zero = np.resize(zero, count)
    info = np.iinfo(dtype)
    if not (np.isfinite(scale).all() and (scale >= 0).all()) or (zero < info.min).any() or (zero > info.max).any():
        raise InputError(
            f"{where} has scales or zero points that are no numbers for {dtype}: export the TFLite model again"
        )
    return Quantization(scale, zero, axis if count > 1 else 0)


def _options(code: str, table: Any) -> Any:
    """The options table, or its defaults where the file has none."""
    kind = None if code.startswith("CUSTOM ") or code.isdigit() else options_name(code)
    if kind is None:
        return None
    s = classes()
    made = getattr(s, f"{kind}T")
    number = int(table.BuiltinOptionsType())
    if number == 0:
        return made()
    if number != enum("BuiltinOptions", kind):
        raise InputError(
            f"the TFLite model is damaged: {code} has {name_of('BuiltinOptions', number)} instead of {kind}: export it again"
        )
    raw = table.BuiltinOptions()
    return made() if raw is None else made.InitFromBuf(raw.Bytes, raw.Pos)


def _names(places: tuple[int, ...], tensors: tuple[SourceTensor, ...], word: str) -> dict[str, int]:
    """By the tensors' own names, which need not be unique."""
    found: dict[str, int] = {}
    for at, place in enumerate(places):
        name = wish = tensors[place].name or f"{word}{at}"
        while name in found:
            name = f"{wish}_{len(found)}"
        found[name] = place
    return found

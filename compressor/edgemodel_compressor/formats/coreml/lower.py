"""From ONNX nodes to MIL operations: the state of one conversion, and the registry that the `ops_*` modules fill.

Shapes are static (`prepare` fixed the free axes), so everything that depends on shapes and constants alone is computed
here, by onnxruntime, and only the rest becomes operations.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import defs, helper, numpy_helper

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted
from edgemodel_compressor.formats.onnx_model import open_session
from edgemodel_compressor.formats.tensors import node_label
from edgemodel_compressor.steps.graph import uses_of

from .names import Names, plain

Array = npt.NDArray[Any]
#: A constant, or a Var of MIL.
Value = Any

#: Core ML's arrays have at most five axes.
MAX_RANK = 5
#: Constants beyond this are left to be computed by the program.
_MAX_FOLDED_BYTES = 2**28
_INT32 = np.iinfo(np.int32)
#: Of an operator without a lowering.
UNKNOWN = "no conversion to Core ML is known"


class Unsupported(Exception):  # noqa: N818 - it is an answer, not a failure
    """A node cannot be converted; the text says why."""


@dataclass(frozen=True)
class Lowering:
    """How one ONNX operator is converted.

    Attributes:
        note: what of it is converted; empty: all.
        function: makes the operations and returns the node's outputs, in order.
    """

    note: str
    function: Callable[[Node], Sequence[Value]] = field(repr=False)


#: ONNX operator → its lowering. Operators of the domain com.microsoft stand under their own names.
LOWERINGS: dict[str, Lowering] = {}


def lowers(*ops: str, note: str = "") -> Callable[[Callable[[Node], Any]], Callable[[Node], Any]]:
    """Register a function that converts these ONNX operators. It returns one value, or a sequence of them."""

    def register(function: Callable[[Node], Any]) -> Callable[[Node], Any]:
        def several(node: Node) -> Sequence[Value]:
            result = function(node)
            return result if isinstance(result, (list, tuple)) else (result,)

        for op in ops:
            LOWERINGS[op] = Lowering(note, several)
        return function

    return register


class Builder:
    """MIL's builder that names every operation after the node it is made for, so that names do not vary by run."""

    def __init__(self, mb: Any, names: Names) -> None:
        self._mb, self._names = mb, names
        self.base = "v"

    def __getattr__(self, op: str) -> Callable[..., Any]:
        make = getattr(self._mb, op)

        def build(**arguments: Any) -> Any:
            given = {k: _feedable(v) for k, v in arguments.items() if v is not None}
            return make(name=self._names.unique(f"{self.base}_{op}"), **given)

        return build


def _feedable(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and any(not isinstance(v, (int, float, bool, np.integer)) for v in value):
        return [_feedable(v) for v in value]
    if isinstance(value, np.uint32):
        # The one parameter that MIL wants unsigned: pixel_unshuffle's.
        return value
    return constant(value) if isinstance(value, (np.ndarray, np.generic)) else value


def constant(value: Any) -> Array:
    """As MIL has it: float32, int32 or bool.

    Raises:
        Unsupported: an integer beyond 32 bits, or no number.
    """
    array = np.asarray(value)
    if array.dtype.kind == "b":
        return array
    if array.dtype.kind in "iu":
        if array.size and (int(array.min()) < _INT32.min or int(array.max()) > _INT32.max):
            raise Unsupported(
                f"the constant {int(array.max() if int(array.max()) > _INT32.max else array.min())} is beyond 32 bits,"
                " and Core ML has no larger integers"
            )
        return array.astype(np.int32)
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        with np.errstate(over="ignore"):
            return array.astype(np.float32)
    raise Unsupported(f"a constant of type {array.dtype}")


class Node:
    """One ONNX node while it is converted."""

    def __init__(self, proto: Any, conversion: Conversion) -> None:
        self.proto = proto
        self.conversion = conversion
        self.mb = conversion.builder
        self._attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
        self._read: set[str] = set()

    @property
    def op(self) -> str:
        """The operator."""
        return str(self.proto.op_type)

    @property
    def opset(self) -> int:
        """Version of the default domain."""
        return self.conversion.opset

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute; bytes as text."""
        self._read.add(name)
        value = self._attributes.get(name, default)
        return value.decode(errors="replace") if isinstance(value, bytes) else value

    def unread(self) -> list[str]:
        """Attributes that the conversion did not look at, and that are not at their defaults.

        A later opset may give an operator a new attribute: what is not known must not be passed over.
        """
        defaults = _defaults(self.op, self.opset, self.proto.domain)
        return sorted(
            name
            for name, value in self._attributes.items()
            if name not in self._read | _REDUNDANT and (name not in defaults or defaults[name] != value)
        )

    def count(self) -> int:
        """Number of inputs."""
        return len(self.proto.input)

    def has(self, index: int) -> bool:
        """Whether this optional input is there."""
        return index < len(self.proto.input) and bool(self.proto.input[index])

    def wants(self, index: int) -> bool:
        """Whether anyone uses this output."""
        names = self.proto.output
        return index < len(names) and bool(names[index]) and names[index] in self.conversion.used

    def __getitem__(self, index: int) -> Value:
        """An input: a constant as numpy has it, or a Var."""
        if not self.has(index):
            raise Unsupported(f"input {index} is missing")
        return self.conversion.values[self.proto.input[index]]

    def get(self, index: int) -> Value | None:
        """An input, or None."""
        return self[index] if self.has(index) else None

    def const(self, index: int, what: str) -> Array:
        """An input that must not depend on the model's inputs.

        Raises:
            Unsupported: it does.
        """
        value = self[index]
        if not isinstance(value, np.ndarray):
            raise Unsupported(f"{what} depends on the model's input, but Core ML needs it as a constant")
        return value

    def ints(self, name: str, index: int | None = None) -> list[int] | None:
        """An attribute that later opsets made an input, or None where it is given neither way."""
        self._read.add(name)
        if name in self._attributes:
            return [int(v) for v in np.atleast_1d(self._attributes[name])]
        if index is not None and self.has(index):
            return [int(v) for v in self.const(index, name).reshape(-1)]
        return None

    def shape(self, index: int) -> tuple[int, ...]:
        """Of an input."""
        return shape_of(self[index])

    def rank(self, index: int) -> int:
        """Of an input."""
        return len(self.shape(index))

    def axis(self, value: int, rank: int) -> int:
        """An axis counted from the front.

        Raises:
            Unsupported: there is no such axis.
        """
        if not -rank <= value < max(rank, 1):
            raise Unsupported(f"axis {value} of a value with {counted(rank, 'axis', 'axes')}")
        return value % rank if rank else 0

    def var(self, index: int) -> Value:
        """An input as a Var, also where it is a constant."""
        return self.conversion.var(self[index])

    def only(self, condition: object, why: str) -> None:
        """Raises:
        Unsupported: the condition does not hold.
        """
        if not condition:
            raise Unsupported(why)


def shape_of(value: Value) -> tuple[int, ...]:
    """Of a constant or a Var."""
    return tuple(int(d) for d in value.shape)


def kind_of(value: Value) -> str:
    """`f`, `i` or `b`."""
    if isinstance(value, (np.ndarray, np.generic)):
        return {"f": "f", "i": "i", "u": "i", "b": "b"}.get(value.dtype.kind, "f")
    name = value.dtype.__name__ if isinstance(value.dtype, type) else str(value.dtype)
    return "b" if "bool" in name else "f" if "fp" in name or "double" in name else "i"


class Conversion:
    """All values of the graph so far.

    Attributes:
        values: by ONNX name.
        opset: of the default domain.
        builder: names follow the node.
        used: ONNX names that a node or the model's outputs use.
        notes: what the user should know.
    exact: names of constants that are no weights: compressing weights leaves them alone.
    """

    def __init__(self, mb: Any, names: Names, model: Any) -> None:
        self.builder = Builder(mb, names)
        self.values: dict[str, Value] = {}
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
        self._opsets = list(model.opset_import)
        self._ir_version = model.ir_version
        graph = model.graph
        self.used = frozenset(uses_of(graph))
        self.notes: list[str] = []
        self.exact: list[str] = []
        self._load(graph)

    def note(self, text: str) -> None:
        """Said once."""
        if text not in self.notes:
            self.notes.append(text)

    def var(self, value: Value) -> Value:
        """A Var, also of a constant."""
        return self.builder.const(val=value) if isinstance(value, (np.ndarray, np.generic)) else value

    def exact_constant(self, value: Array) -> Value:
        """A Var of a constant that is no weight, such as a matrix that resizes."""
        var = self.builder.const(val=value)
        self.exact.append(str(var.name))
        return var

    def _load(self, graph: Any) -> None:
        for tensor in graph.initializer:
            self.values[tensor.name] = numpy_helper.to_array(tensor)

    def convert(self, proto: Any) -> None:
        """One node; its outputs are in `values` afterwards.

        Raises:
            Unsupported: it cannot be converted.
        """
        if proto.op_type == "If" and proto.domain in ("", "ai.onnx"):
            self._branch(proto)
            return
        self.builder.base = plain(next((o for o in proto.output if o), proto.op_type))
        inputs = [self.values.get(name) for name in proto.input if name]
        results: Sequence[Value] | None = self._folded(proto, inputs)
        if results is None:
            if proto.domain not in ("", "ai.onnx", "com.microsoft"):
                raise Unsupported(f"operators of the domain {proto.domain!r} are not known")
            lowering = LOWERINGS.get(proto.op_type)
            if lowering is None:
                raise Unsupported(UNKNOWN)
            node = Node(proto, self)
            results = lowering.function(node)
            if unread := node.unread():
                raise Unsupported(f"the attribute {', '.join(unread)} is not known")
        for name, value in zip(proto.output, results, strict=False):
            if not name:
                continue
            shape = shape_of(value)
            if not isinstance(value, np.ndarray):
                if len(shape) > MAX_RANK:
                    raise Unsupported(f"its output has {len(shape)} axes, but Core ML's arrays have at most {MAX_RANK}")
                if 0 in shape:
                    raise Unsupported(f"its output has shape {list(shape)}, but Core ML has no empty arrays")
            self.values[name] = value

    def _branch(self, proto: Any) -> None:
        """The branch that a constant condition takes; its names are unique in the model."""
        condition = self.values[proto.input[0]]
        if not isinstance(condition, np.ndarray):
            raise Unsupported("its condition depends on the model's input")
        name = "then_branch" if condition.reshape(-1)[0] else "else_branch"
        graph = next(a.g for a in proto.attribute if a.name == name)
        self._load(graph)
        for index, node in enumerate(graph.node):
            try:
                self.convert(node)
            except Unsupported as error:
                raise Unsupported(f"in {name}, {node_label(node, index)}: {error}") from None
        for outer, inner in zip(proto.output, graph.output, strict=True):
            self.values[outer] = self.values[inner.name]

    def _folded(self, proto: Any, inputs: list[Value]) -> list[Array] | None:
        """The outputs, where they follow from constants and shapes."""
        if proto.op_type in ("Shape", "Size") and inputs and not isinstance(inputs[0], np.ndarray):
            shape = shape_of(inputs[0])
            if proto.op_type == "Size":
                return [np.array(int(np.prod(shape)), np.int64)]
            bounds = {a.name: a.i for a in proto.attribute}
            return [np.array(shape[slice(bounds.get("start", 0), bounds.get("end"))], np.int64)]
        if proto.op_type in _RANDOM or not all(isinstance(v, np.ndarray) for v in inputs):
            return None
        if sum(v.nbytes for v in inputs) > _MAX_FOLDED_BYTES:
            return None
        return self._evaluate(proto)

    def _evaluate(self, proto: Any) -> list[Array]:
        """One node of constants, by onnxruntime."""
        names = [n for n in dict.fromkeys(proto.input) if n]
        if proto.op_type == "Range":
            # The runtime wants scalars where shapes are known; exporters also give vectors of one.
            self.values.update({n: self.values[n].reshape(()) for n in names if self.values[n].size == 1})
        graph = helper.make_graph(
            [proto],
            "constant",
            [],
            [onnx.ValueInfoProto(name=o) for o in proto.output if o],
            [
                numpy_helper.from_array(np.ascontiguousarray(self.values[n]).reshape(self.values[n].shape), n)
                for n in names
            ],
        )
        model = helper.make_model(graph, opset_imports=self._opsets, ir_version=self._ir_version)
        try:
            results = open_session(model.SerializeToString()).run(None, {})
        except InputError as error:
            raise Unsupported(f"its constant inputs cannot be computed ({error})") from None
        except Exception as error:  # onnxruntime raises many types of its own
            raise Unsupported(f"its constant inputs cannot be computed ({error})") from None
        if not all(isinstance(r, np.ndarray) for r in results):
            raise Unsupported("its constant outputs are no tensors")
        found = iter(results)
        return [next(found) if o else np.zeros(0) for o in proto.output]


#: Follow from other things, or mean nothing for inference.
_REDUNDANT = frozenset(
    {
        "activation_alpha", "activation_beta", "consumed_inputs", "hidden_size", "is_test", "kernel_shape",
        "momentum", "ratio", "round_mode", "saturate", "seed", "sorted", "spatial", "stash_type",
    }
)  # fmt: skip


@functools.cache
def _defaults(op: str, opset: int, domain: str) -> dict[str, Any]:
    try:
        schema = defs.get_schema(op, opset, domain)
    except defs.SchemaError:
        return {}
    given = {name: a.default_value for name, a in schema.attributes.items() if a.default_value.name}
    return {name: helper.get_attribute_value(value) for name, value in given.items()}


_RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
)

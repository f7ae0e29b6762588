"""What every operator's conversion stands on: values, calls, the registry.

A value is either *static* (a numpy array: known while the function is traced, as initializers that do not learn and
everything computed from them and from shapes) or *traced* (a JAX array). Static values keep ONNX's types (int64 shapes
stay exact); traced floats are always float32 and traced integers at most 32 bits wide, which is what JAX computes
fast and learns well in. So one conversion serves both: it works on `call.np`, numpy or jax.numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

Static: TypeAlias = npt.NDArray[Any]
Value: TypeAlias = Any  # Static | jax.Array; an Any, as numpy's and JAX's stubs do not agree with each other
Result: TypeAlias = Any  # a Value, or a tuple of them for operators with several outputs

#: More elements than this are no shape or mask but an attack (ConstantOfShape, Range, Expand, Tile of constants).
MAX_STATIC_ELEMENTS = 2**27
_NARROW: Mapping[str, Any] = {
    "float64": np.float32, "float16": np.float32, "bfloat16": np.float32, "int64": np.int32, "uint64": np.uint32,
    "int4": np.int8, "int2": np.int8, "uint4": np.uint8, "uint2": np.uint8,
}  # fmt: skip
_INT32 = np.iinfo(np.int32)


class NotConvertibleError(Exception):
    """What a node asks for has no conversion; the message is the reason, and the interpreter adds the node's name."""


@dataclass(frozen=True)
class Call:
    """One node at the time that it is traced.

    Attributes:
        op: operator.
        opset: version of its domain.
        attributes: by name, as Python values.
        outputs: names; empty where an optional one is not wanted.
        np: numpy if all inputs are static, else jax.numpy.
        run: runs a subgraph: (graph, values of its inputs in order) → its outputs.
    """

    op: str
    opset: int
    attributes: Mapping[str, Any]
    outputs: tuple[str, ...]
    np: Any
    run: Callable[[Any, Sequence[Value]], tuple[Value, ...]] = field(repr=False)

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute's value; strings as str."""
        value = self.attributes.get(name, default)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    def ints(self, name: str, default: Sequence[int] | None = None) -> tuple[int, ...] | None:
        """An attribute that is a list of numbers."""
        value = self.attributes.get(name, default)
        return None if value is None else tuple(int(v) for v in value)

    def wants(self, index: int) -> bool:
        """Whether anything may read this output."""
        return index < len(self.outputs) and bool(self.outputs[index])


Op: TypeAlias = Callable[..., Result]


@dataclass(frozen=True)
class Conversion:
    """How an operator is converted.

    Attributes:
        function: (call, *inputs) → output or outputs; absent optional inputs are None.
        note: what of the operator is converted; empty: all of it.
        since: the first opset whose form of the operator is converted.
        keep: indices of inputs that are shapes, axes or sizes: they stay static beside traced ones.
        traced: it has no numpy form; its result is traced even where all inputs are static.
    """

    function: Op
    note: str
    since: int
    keep: frozenset[int]
    traced: bool


#: (domain, operator) → conversion; filled by the modules of this package.
REGISTRY: dict[tuple[str, str], Conversion] = {}


def op(
    *names: str, note: str = "", domain: str = "", since: int = 1, keep: Sequence[int] = (), traced: bool = False
) -> Callable[[Op], Op]:
    """Register the conversion of some operators."""

    def register(function: Op) -> Op:
        for name in names:
            if (domain, name) in REGISTRY:
                raise RuntimeError(f"{domain}:{name} is registered twice")
            REGISTRY[domain, name] = Conversion(function, note, since, frozenset(keep), traced)
        return function

    return register


def is_static(value: Value) -> bool:
    """Whether a value is known at the time of tracing (absent ones are)."""
    return value is None or isinstance(value, np.ndarray | np.generic)


def lift(value: Value) -> Any:
    """A value for JAX: floats as float32, integers at most 32 bits wide (clipped: INT64_MAX means "to the end")."""
    if value is None:
        return None
    if isinstance(value, jax.Array):
        narrow = _narrow(np.dtype(value.dtype))
        return value if narrow is None else value.astype(narrow)
    array = np.asarray(value)
    if array.dtype.kind in "OSUc":
        raise NotConvertibleError(f"values of type {array.dtype.name} cannot be differentiated")
    narrow = _narrow(array.dtype)
    if narrow is np.int32:
        array = np.clip(array, _INT32.min, _INT32.max)
    return jnp.asarray(array if narrow is None else array.astype(narrow))


def _narrow(dtype: np.dtype[Any]) -> Any:
    """JAX's type for one of ONNX's; None: the same."""
    return np.float32 if dtype.name.startswith(("float8", "float4")) else _NARROW.get(dtype.name)


def known(value: Value, what: str) -> Static:
    """A value that must be known before the model runs: a shape, axes, a size.

    Raises:
        NotConvertibleError: it depends on the model's inputs.
    """
    if value is None or not is_static(value):
        raise NotConvertibleError(f"its {what} depends on the inputs' values, but shapes must be known before it runs")
    return np.asarray(value)


def known_ints(value: Value, what: str) -> tuple[int, ...]:
    """A known value as a tuple of ints, a scalar as a tuple of one."""
    return tuple(int(v) for v in known(value, what).reshape(-1))


def axes_of(call: Call, value: Value, rank: int) -> tuple[int, ...] | None:
    """Axes given as an input (newer opsets) or an attribute, from 0; None: not given."""
    axes = call.ints("axes") if value is None else known_ints(value, "axes")
    return None if axes is None else tuple(axis_of(a, rank) for a in axes)


def axis_of(axis: int, rank: int) -> int:
    """An axis from 0.

    Raises:
        ValueError: there is no such axis.
    """
    if not -rank <= axis < max(rank, 1):
        raise ValueError(f"axis {axis} of a tensor of rank {rank}")
    return axis % rank if rank else 0


def bounded(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a constant about to be made.

    Raises:
        ValueError: it is negative or larger than any honest constant.
    """
    found = tuple(int(d) for d in shape)
    elements = 1
    for d in found:
        if d < 0:
            raise ValueError(f"shape {list(found)} has a negative dimension")
        elements *= d
    if elements > MAX_STATIC_ELEMENTS:
        raise ValueError(f"shape {list(found)} has {elements} elements, at most {MAX_STATIC_ELEMENTS} are possible")
    return found


def bounded_broadcast(call: Call, *values: Value) -> None:
    """That known values do not broadcast to more than any honest constant.

    Raises:
        ValueError: they do, or cannot be broadcast.
    """
    if call.np is np:
        bounded(np.broadcast_shapes(*(np.shape(v) for v in values)))


def dtype_of(code: int, *, static: bool) -> np.dtype[Any]:
    """The type of a value by its ONNX code: as it is for static values, narrowed for traced ones.

    Raises:
        NotConvertibleError: strings or complex numbers; for traced values, float8 and smaller as well.
    """
    name = TensorProto.DataType.Name(code)
    if code in (TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        raise NotConvertibleError(f"values of type {name} cannot be differentiated")
    dtype: np.dtype[Any] = np.dtype(helper.tensor_dtype_to_np_dtype(code))
    if static:
        return dtype
    if is_exotic(dtype):
        raise NotConvertibleError(f"inputs of type {name} have no conversion")
    return np.dtype(_narrow(dtype) or dtype)


def cast(x: Value, code: int) -> Value:
    """A value in another type, by its ONNX code."""
    return cast_to(x, dtype_of(code, static=True))


def cast_to(x: Value, dtype: np.dtype[Any]) -> Value:
    """A value in another type; a traced one is rounded to float16 and goes on in float32.

    Raises:
        NotConvertibleError: a type that is smaller than a byte, or a float8.
    """
    if is_exotic(dtype):
        raise NotConvertibleError(f"a cast to {dtype.name} has no conversion")
    if is_static(x):
        return np.asarray(x).astype(dtype)
    if dtype.name in ("float16", "bfloat16"):
        return x.astype(dtype).astype(np.float32)
    return x.astype(_narrow(dtype) or dtype)


def is_exotic(dtype: np.dtype[Any]) -> bool:
    """A float8 or smaller: weights are stored in these, nothing is computed in them."""
    return dtype.name.startswith(("float8", "float4")) or (dtype.kind not in "fiub" and dtype.name != "bfloat16")

"""From an ONNX model to a pure, differentiable function (JAX), so that it can learn without the framework it came from.

A float initializer *learns* where a node multiplies with it, adds it, or looks rows up in it (`_LEARNS`), directly or
through nodes that only move or cast it; it is then a parameter. These are none, and stay as they are: statistics of
BatchNormalization, scalars (epsilon, a scale by √d), masks (−∞ or magnitudes from 10⁴ on), and everything that is no
float. `trainable` narrows the rule further. Parameters and computations are float32 whatever the model stores;
`with_parameters` writes them back in the model's own types.

The first axis of the inputs is the batch. Where the model declares a fixed batch b (1, mostly), feeds of n·b rows are
n runs of the model (`jax.vmap`), so that it learns in batches all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, inliner, numpy_helper

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted
from edgemodel_api.reasons import NOT_SUPPORTED
from edgemodel_compressor.formats.functions import check_calls, domain_of, local_functions
from edgemodel_compressor.formats.tensors import node_label, subgraphs
from edgemodel_compressor.steps.graph import array_of, copy_of

if TYPE_CHECKING:
    import jax

    from .ops.interpreter import NodeError

Array: TypeAlias = npt.NDArray[Any]
Feeds: TypeAlias = "Mapping[str, Array | jax.Array]"

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
#: Operator → the inputs that learn; None: all.
_LEARNS: Mapping[str, tuple[int, ...] | None] = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "FusedConv": (1, 2), "Gemm": (0, 1, 2), "MatMul": (0, 1),
    "FusedMatMul": (0, 1), "Einsum": None, "Gather": (0,), "BatchNormalization": (1, 2), "LayerNormalization": (1, 2),
    "InstanceNormalization": (1, 2), "GroupNormalization": (1, 2), "RMSNormalization": (1,),
    "SimplifiedLayerNormalization": (1,), "SkipLayerNormalization": (2, 3, 4),
    "SkipSimplifiedLayerNormalization": (2, 3), "LSTM": (1, 2, 3, 5, 6, 7), "GRU": (1, 2, 3, 5), "RNN": (1, 2, 3, 5),
    "PRelu": (1,), "Attention": None, "MultiHeadAttention": None, "BiasGelu": (1,), "FastGelu": (1,),
    "Add": None, "Sub": None, "Mul": None, "Div": None, "Sum": None,
}  # fmt: skip
_MOVES = frozenset(
    {"Identity", "Cast", "CastLike", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Concat", "Split",
     "Slice", "Expand", "Tile"}
)  # fmt: skip
_MASK = 1e4
#: Sizes that free dimensions are tried with, (batch, any other): a model whose other dimensions are free may need some.
_TRIALS = ((2, 16), (1, 16), (2, 64), (2, 224), (2, 640), (2, 1), (1, 1))
_REPORTED = 8


@dataclass(frozen=True, eq=False)
class Differentiable:
    """A model as a function.

    Attributes:
        parameters: float32, by initializer name, in ONNX's layout.
        inputs: names, without those that have a default.
        outputs: names.
    """

    parameters: dict[str, Array]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    _model: Any = field(repr=False)
    _batch: int | None = field(default=None, repr=False)

    def apply(self, parameters: Mapping[str, Any], feeds: Feeds) -> dict[str, jax.Array]:
        """Run the model; pure, so that it can be given to `jax.jit`, `jax.grad` and `jax.vmap`.

        Args:
            parameters: some of or all `self.parameters`; those left out have the model's own values.
            feeds: by input name, batch first; float64 and float16 become float32, int64 int32.

        Returns:
            Outputs by name, batch first; float32 where the model gives other floats.

        Raises:
            InputError: an input is missing or unknown, or the shapes do not fit; names the node.
        """
        from .ops.base import lift

        missing = [name for name in self.inputs if name not in feeds]
        if missing:
            raise InputError(f"no values for the input {missing[0]!r}: the model's inputs are {_listed(self.inputs)}")
        values = {name: lift(_array(feeds[name])) for name in self.inputs}
        learnt = {name: lift(_array(value)) for name, value in parameters.items() if name in self.parameters}
        if len(learnt) != len(parameters):
            raise InputError(f"{min(set(parameters) - set(learnt))!r} is no parameter of the model")
        rows = {v.shape[0] for v in values.values() if v.ndim} if self._batch is not None else set()
        if len(rows) == 1 and self._batch is not None and (n := rows.pop()) != self._batch:
            return self._by_parts(learnt, values, n, self._batch)
        return _outputs(self._model, {**values, **learnt})

    def _by_parts(self, learnt: dict[str, Any], values: dict[str, Any], rows: int, batch: int) -> dict[str, jax.Array]:
        import jax

        if rows % batch:
            raise InputError(f"{counted(rows, 'row')} for a model whose batch is {batch}: give a multiple of {batch}")
        parts = {name: v.reshape(rows // batch, batch, *v.shape[1:]) for name, v in values.items()}
        found = jax.vmap(lambda one: _outputs(self._model, {**one, **learnt}))(parts)
        return {
            name: v.reshape(rows, *v.shape[2:]) if v.ndim > 1 and v.shape[1] == batch else v
            for name, v in found.items()
        }


def unsupported(model: Any) -> tuple[str, ...]:
    """What of a model has no conversion, before any work: "node NAME (Op): why", in the graph's order.

    First the operators, by name; where all are known, the model is traced with abstract values, which finds attributes
    and shapes that have no conversion.

    Raises:
        InputError: the model is damaged, or JAX is not installed.
    """
    return tuple(str(e) for e in _problems(_inlined(model)) if e.unsupported)


def differentiable(model: Any, *, trainable: Callable[[str], bool] | None = None) -> Differentiable:
    """Convert.

    Args:
        model: a ModelProto; not changed, and not to be changed while the result is used.
        trainable: narrows the parameters, by initializer name.

    Raises:
        InputError: names the nodes and operators that have no conversion, or what of the model does not fit together.
    """
    flat = _inlined(model)
    problems = _problems(flat)
    lacking = [e for e in problems if e.unsupported]
    if lacking:
        more = f" and {len(lacking) - _REPORTED} more" if len(lacking) > _REPORTED else ""
        listed = "; ".join(str(e) for e in lacking[:_REPORTED])
        raise InputError(
            f"the model cannot learn here, as {len(lacking)} of its nodes cannot be differentiated: {listed}{more}."
            " Export it with other operators, or compress it without distill and recover",
            reason=NOT_SUPPORTED,
        )
    if problems:
        raise InputError(f"{problems[0]}: export the model again")
    graph = flat.graph
    made = {n for node in graph.node for n in node.output} | {v.name for v in (*graph.input, *graph.initializer)}
    for output in graph.output:
        if output.name not in made:
            raise InputError(f"no node makes the model's output {output.name!r}: export the model again")
    defaults = {t.name for t in flat.graph.initializer}
    names = tuple(i.name for i in flat.graph.input if i.name not in defaults)
    chosen = _parameters(flat)
    parameters = {name: v for name, v in chosen.items() if trainable is None or trainable(name)}
    outputs = tuple(o.name for o in flat.graph.output)
    return Differentiable(parameters, names, outputs, flat, _fixed_batch(flat, names))


def with_parameters(model: Any, parameters: Mapping[str, Any]) -> Any:
    """A copy of a model in which these initializers have other values; names, shapes and types stay.

    Raises:
        InputError: there is no such initializer, a shape differs, or a value is not finite in the initializer's type.
    """
    changed = copy_of(model)
    tensors = {t.name: t for t in changed.graph.initializer}
    for name, value in parameters.items():
        tensor = tensors.get(name)
        if tensor is None or tensor.data_type not in _FLOATS:
            raise InputError(f"the model has no float initializer {name!r}")
        new = np.asarray(value)
        if new.shape != tuple(tensor.dims):
            raise InputError(f"parameter {name!r} has shape {list(new.shape)}, but the model's is {list(tensor.dims)}")
        with np.errstate(over="ignore"):
            stored = new.astype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        if not np.isfinite(stored.astype(np.float32 if tensor.data_type != TensorProto.DOUBLE else np.float64)).all():
            kind = TensorProto.DataType.Name(tensor.data_type)
            raise InputError(
                f"parameter {name!r} is no longer finite in {kind}: the learning has diverged; lower learningRate"
            )
        tensor.CopyFrom(numpy_helper.from_array(stored, name))
    return changed


def _array(value: Any) -> Any:
    """Lists and numpy scalars as arrays; JAX's arrays as they are."""
    return np.asarray(value) if isinstance(value, list | tuple | float | int | np.generic) else value


def _inlined(model: Any) -> Any:
    """The model without local functions.

    Raises:
        InputError: functions that call themselves.
    """
    if not model.functions:
        return model
    check_calls(model, local_functions(model))
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # native code raises several types
        raise InputError(f"the model's local functions cannot be inlined ({error}): export it without them") from None


def _opsets(model: Any) -> dict[str, int]:
    return {domain_of(o.domain): int(o.version) for o in model.opset_import}


def _outputs(model: Any, values: dict[str, Any]) -> dict[str, jax.Array]:
    from .ops.base import lift
    from .ops.interpreter import Interpreter, NodeError

    try:
        found = Interpreter(_opsets(model)).run(model.graph, values)
    except NodeError as error:
        raise InputError(f"{error}: give other inputs, or export the model again") from error
    return {o.name: lift(found[o.name]) for o in model.graph.output}


def _problems(model: Any) -> list[NodeError]:
    """Everything that keeps a model from being traced, each node once."""
    interpreter = _interpreter()
    found: list[NodeError] = []
    pending = [(model.graph, 0)]
    opsets = _opsets(model)
    while pending:
        graph, nesting = pending.pop(0)
        for index, node in enumerate(graph.node):
            label = node_label(node, index)
            if nesting >= interpreter.MAX_NESTING:
                return [interpreter.NodeError(label, f"graphs are nested {nesting} deep", unsupported=True)]
            domain = domain_of(node.domain)
            why = interpreter.lacks(domain, node.op_type, opsets.get(domain, 1))
            if why:
                found.append(interpreter.NodeError(label, why, unsupported=True))
            pending.extend((inner, nesting + 1) for inner in subgraphs(node))
    return found or _traced(model, interpreter)


def _traced(model: Any, interpreter: Any) -> list[NodeError]:
    import jax

    defaults = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in defaults]
    learns = {name: _abstract(v.shape, v.dtype) for name, v in _parameters(model).items()}
    first: list[NodeError] | None = None
    free = False
    for batch, other in _TRIALS:
        problems: dict[str, NodeError] = {}
        shapes: dict[str, Any] = {}
        for value in inputs:
            spec, guessed = _spec(value, batch, other, interpreter)
            shapes[value.name] = spec
            free = free or guessed

        def run(values: dict[str, Any], problems: dict[str, NodeError] = problems) -> dict[str, Any]:
            run = interpreter.Interpreter(_opsets(model), failed=lambda e: problems.setdefault(str(e), e))
            results = run.run(model.graph, values)
            found = ((o.name, results.get(o.name)) for o in model.graph.output)
            return {name: interpreter.lift(v) for name, v in found if v is not None and v is not interpreter.POISON}

        jax.eval_shape(run, {**shapes, **learns})
        if not problems:
            return []
        first = list(problems.values()) if first is None else first
        if not free:
            break
    assert first is not None
    # With free dimensions a mismatch says nothing: no trial may have had the right sizes.
    return [e for e in first if e.unsupported or not free]


def _abstract(shape: tuple[int, ...], dtype: Any) -> Any:
    import jax

    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]


def _spec(value: Any, batch: int, other: int, interpreter: Any) -> tuple[Any, bool]:
    """Shape and type of an input, with sizes for the free dimensions, and whether there were any beside the batch."""
    label = f"input {value.name!r}"
    if value.type.WhichOneof("value") != "tensor_type":
        raise InputError(f"{label} is no tensor: a model with sequences or optional inputs cannot learn here",
                         reason=NOT_SUPPORTED)  # fmt: skip
    tensor = value.type.tensor_type
    try:
        dtype = interpreter.dtype_of(tensor.elem_type, static=False)
    except interpreter.NotConvertibleError as error:
        raise InputError(f"{label}: {error}", reason=NOT_SUPPORTED) from None
    if not tensor.HasField("shape"):
        return _abstract((batch,), dtype), True
    dims, free = [], False
    for axis, d in enumerate(tensor.shape.dim):
        fixed = d.WhichOneof("value") == "dim_value" and d.dim_value > 0
        free = free or not (fixed or axis == 0)
        dims.append(int(d.dim_value) if fixed else batch if axis == 0 else other)
    return _abstract(tuple(dims), dtype), free


def _fixed_batch(model: Any, names: Iterable[str]) -> int | None:
    """The first dimension where it is the same fixed number for all inputs."""
    wanted = set(names)
    found = set()
    for value in model.graph.input:
        if value.name in wanted:
            dims = value.type.tensor_type.shape.dim
            found.add(int(dims[0].dim_value) if dims and dims[0].WhichOneof("value") == "dim_value" else 0)
    return found.pop() if len(found) == 1 and 0 not in found else None


def _parameters(model: Any) -> dict[str, Array]:
    """Initializers of the outer graph that learn, as float32, in the order of the file."""
    graph = model.graph
    tensors = {t.name: t for t in graph.initializer if t.data_type in _FLOATS}
    #: Tensor → the initializers that it consists of.
    origin: dict[str, set[str]] = {name: {name} for name in tensors}
    reached: set[str] = set()
    for node in graph.node:
        if node.op_type in _MOVES:
            moved = set().union(*(origin.get(name, set()) for name in node.input))
            if moved:
                origin.update((name, moved) for name in node.output)
        learns = _LEARNS.get(node.op_type, ())
        for index, name in enumerate(node.input):
            if learns is None or index in learns:
                reached |= origin.get(name, set())
    found = {}
    for name, tensor in tensors.items():
        if name in reached and not (len(tensor.dims) == 0 or int(np.prod(tensor.dims)) <= 1):
            values = np.asarray(array_of(tensor), np.float32)
            if np.isfinite(values).all() and np.abs(values).max(initial=0) < _MASK:
                found[name] = values
    return found


def _interpreter() -> Any:
    from .backend import require

    require()
    from .ops import interpreter

    return interpreter


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(n) for n in names)


def __getattr__(name: str) -> Any:
    """`OPS`: operator → note on what of it is converted; read from the registry, which imports JAX."""
    if name != "OPS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _interpreter()
    from .ops import OPS

    return OPS

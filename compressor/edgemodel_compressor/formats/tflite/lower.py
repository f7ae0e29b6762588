"""From an ONNX graph to a TFLite graph in float32, or the list of nodes for which that cannot be done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgemodel_api.errors import InputError
from edgemodel_compressor.evaluate.runner import Arrays
from edgemodel_compressor.steps.graph import graphs, is_standard, opset, sort_nodes
from edgemodel_compressor.steps.prepare import prepare

from . import (  # noqa: F401  (they register themselves)
    ops_conv,
    ops_dense,
    ops_elementwise,
    ops_index,
    ops_norm,
    ops_recurrent,
    ops_reduce,
    ops_resize,
    ops_shape,
)
from .emit import Emitter
from .fuse import fuse
from .graph import Free, Graph, Tensor, is_free
from .kernels import refusal
from .known import Knowledge, Known, input_shapes, inputs_of, know
from .layout import Value, plain
from .patterns import find_activations
from .schema import LIMIT_BYTES
from .site import AS_FLOAT, REGISTRY, NeedsFixedBatchError, Refused, Scope, Site, fetch

#: Types that TFLite and ONNX share for inputs and outputs.
_RIM = frozenset({"float32", "int32", "int64", "bool", "uint8", "int8"})
#: Newest opset whose definitions the lowering was written for.
NEWEST_OPSET = 28


@dataclass(frozen=True)
class Lowered:
    """The graph, or why there is none.

    Attributes:
        graph: complete where `problems` is empty.
        problems: "node NAME (Op): why".
        notes: what was decided.
        free: whether the batch is.
    """

    graph: Graph
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    free: bool = False


def lower(model: Any, feeds: Arrays | None = None, *, free_batch: bool = True) -> Lowered:
    """Convert.

    Args:
        model: any ONNX model that passed the loader's checks.
        feeds: some rows, for shapes that the model leaves open.
        free_batch: False: one sample at a time.

    Raises:
        InputError: the model cannot be run at all.
    """
    prepared = prepare(model)
    sort_nodes(prepared.graph)
    problems = (*_by_name(prepared), *input_shapes(prepared, feeds)[1], *_rim(prepared))
    if problems:
        return Lowered(Graph(), problems)
    knowledge = know(prepared, feeds, free=free_batch)
    result = _lower(prepared, knowledge)
    if isinstance(result, Lowered):
        return result
    # Some node wants the batch to be a number.
    fixed = _lower(prepared, know(prepared, feeds, free=False))
    if isinstance(fixed, Lowered) and not fixed.problems:
        return Lowered(fixed.graph, (), (f"the batch is fixed to 1: {result}",), free=False)
    return fixed if isinstance(fixed, Lowered) else Lowered(Graph(), (fixed,))


def _by_name(model: Any) -> tuple[str, ...]:
    """Operators that are not in the registry, and what no lowering can do."""
    found = []
    size = sum(len(t.raw_data) for t in model.graph.initializer)
    if size > LIMIT_BYTES:
        found.append(f"the weights take {size} bytes, and a TFLite file holds {LIMIT_BYTES} at most")
    if opset(model) > NEWEST_OPSET:
        found.append(f"opset {opset(model)} is newer than {NEWEST_OPSET}, the newest that the conversion knows")
    for node in (n for g in graphs(model.graph) for n in g.node):
        if not is_standard(node):
            found.append(f"node {node.name} ({node.domain}.{node.op_type}): no operator of ONNX's own")
        elif node.op_type not in REGISTRY and node.op_type not in STATIC:
            found.append(f"node {node.name} ({node.op_type}): TFLite has nothing to compute it with")
    return tuple(dict.fromkeys(found))


#: These are converted only where nothing but weights and shapes goes into them: then they are constants.
STATIC = frozenset({
    "Constant", "ConstantOfShape", "Shape", "Size", "Range", "EyeLike", "NonZero", "HannWindow", "HammingWindow",
    "BlackmanWindow", "MelWeightMatrix", "DequantizeLinear", "QuantizeLinear", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot",
    "Unique", "Compress", "Det", "Hardmax", "ScatterElements", "Scatter",
})  # fmt: skip
_STATIC_ONLY = "it is not computed from weights and shapes alone"


def _rim(model: Any) -> tuple[str, ...]:
    from onnx import helper

    found = [] if inputs_of(model) else ["the model has no inputs"]
    for what, values in (("input", inputs_of(model)), ("output", model.graph.output)):
        for value in values:
            number = value.type.tensor_type.elem_type
            if not number and what == "output":
                continue
            try:
                kind = np.dtype(helper.tensor_dtype_to_np_dtype(number)).name
            except (KeyError, TypeError):
                kind = f"type number {number}"
            if what == "input" and not len(value.type.tensor_type.shape.dim):
                found.append(f"input {value.name!r} is a scalar: give it an axis for samples")
            if kind not in _RIM:
                kinds = ", ".join(sorted(_RIM))
                found.append(f"{what} {value.name!r} is {kind}; a TFLite model can have {kinds}: cast it in the model")
    return tuple(found)


def _lower(model: Any, knowledge: Knowledge) -> Lowered | str:
    """The graph or its problems; or, as a text, what a fixed batch would solve."""
    graph = Graph()
    emit = Emitter(graph)
    producers = {name: node for node in model.graph.node for name in node.output}
    shorter = find_activations(model, knowledge.tensors)
    scope = Scope(emit, dict(knowledge.tensors), {}, opset(model), producers)
    for value in inputs_of(model):
        known = scope.known[value.name]
        tensor = Tensor(value.name, known.shape, known.dtype)
        graph.inputs[value.name] = tensor
        scope.values[value.name] = Value(known.shape, {plain(len(known.shape)): tensor})
    problems: list[str] = []
    batch: str | None = None
    broken: set[str] = set()
    for node in model.graph.node:
        outputs = [n for n in node.output if n]
        if all(_settled(scope.known.get(n)) for n in outputs):
            continue
        if any(n in broken for n in node.input):
            broken.update(outputs)
            # Of what follows a node that cannot be converted, only the operators can be judged.
            if node.op_type not in REGISTRY:
                problems.append(f"node {node.name} ({node.op_type}): {_STATIC_ONLY}")
            continue
        try:
            _one(shorter.get(outputs[0], node) if outputs else node, scope)
        except NeedsFixedBatchError as error:
            broken.update(outputs)
            batch = batch or f"node {node.name} ({node.op_type}): {error}"
        except Refused as error:
            broken.update(outputs)
            problems.append(f"node {node.name} ({node.op_type}): {error}")
    if batch is not None and not problems:
        if knowledge.free:
            return batch
        problems.append(batch)
    if problems:
        return Lowered(graph, tuple(problems))
    unfit = _outputs(model, scope, graph)
    if unfit:
        return Lowered(graph, unfit)
    graph.drop_dead()
    fuse(graph)
    return Lowered(graph, (), knowledge.notes, knowledge.free and any(is_free(t.shape) for t in graph.inputs.values()))


def _settled(known: Known | None) -> bool:
    """Whether nothing needs to be computed: a constant, or a number that follows from the batch."""
    return known is not None and (known.value is not None or known.varying is not None)


def _one(node: Any, scope: Scope) -> None:
    if node.op_type not in REGISTRY:
        raise Refused(_STATIC_ONLY)
    scope.emit.node, scope.emit.exact = node.name, False
    before = len(scope.emit.graph.ops)
    try:
        REGISTRY[node.op_type][0](Site(node, scope))
    except (InputError, Refused):
        raise
    except Exception as error:
        # The runtime's checks are looser than the definitions. No traceback, and nothing of what Python says of it.
        raise Refused("its attributes and the shapes of its inputs contradict each other") from error
    for op in scope.emit.graph.ops[before:]:
        why = refusal(op)
        if why is not None:
            raise Refused(why)
    for i, name in enumerate(node.output):
        if name and not _settled(scope.known.get(name)) and not (name in scope.values and scope.values[name].held):
            raise Refused(f"its output {i} ({name})")


def _outputs(model: Any, scope: Scope, graph: Graph) -> tuple[str, ...]:
    problems = []
    taken = {id(t) for t in graph.inputs.values()}
    for value in model.graph.output:
        known = scope.known[value.name]
        if known.dtype.name in AS_FLOAT or known.dtype.name not in _RIM:
            problems.append(
                f"output {value.name!r} is {known.dtype}, which TFLite does not compute: cast it in the model"
            )
            continue
        if 0 in map(int, known.shape):
            problems.append(f"output {value.name!r} is empty ({[int(d) for d in known.shape]})")
            continue
        scope.emit.node, scope.emit.exact = value.name, False
        try:
            tensor = fetch(scope, value.name)
        except Refused as error:
            problems.append(f"output {value.name!r}: {error}")
            continue
        if tensor.data is not None or id(tensor) in taken:
            # Not computed, or two names for one tensor: a copy.
            target = [-1 if isinstance(d, Free) else int(d) for d in tensor.shape]
            if target.count(-1) > 1:
                problems.append(f"output {value.name!r}: a copy of a tensor with two free dimensions")
                continue
            tensor = scope.emit.op("RESHAPE", [tensor, scope.emit.indices(target)], tensor.shape, newShape=target)
        tensor.name = value.name
        taken.add(id(tensor))
        graph.outputs[value.name] = tensor
    return tuple(problems)

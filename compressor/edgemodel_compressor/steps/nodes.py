"""Which nodes static and dynamic quantization can work on. Pure.

*Computing* nodes multiply: Conv, MatMul, Gemm and their kin, which have integer kernels in onnxruntime. *Passing*
nodes (Relu, MaxPool, Reshape, Add, …) have integer kernels too, but they gain only between two quantized nodes, where
they spare a trip to float and back. So a passing node is quantized when all of its float inputs come from quantized
nodes and a quantized node reads its output; the largest such set is taken. That leaves a final Softmax or a lone Add
in float, where integers cost accuracy and time and gain nothing.
"""

from __future__ import annotations

from typing import Any

from edgemodel_api.edgemodel import Activations, Precision, QuantizeStep

from .graph import FLOATS, attribute, constant_values, is_standard
from .selection import allowed, weight_allowed
from .weight_only import MIN_ELEMENTS
from .weights import Use, weights

STATIC_OPS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
DYNAMIC_OPS = frozenset({"MatMul", "Gemm", "LSTM"})
PASSING_OPS = frozenset(
    {"Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Reshape", "Transpose", "Squeeze", "Unsqueeze",
     "Flatten", "Concat", "Split", "Slice", "Pad", "Resize", "Add", "Mul", "LeakyRelu", "Sigmoid"}
)  # fmt: skip
#: Passing nodes whose inputs beyond the first are shapes, not numbers.
_FIRST_INPUT_ONLY = PASSING_OPS - {"Concat", "Add", "Mul"}


def quantizable(model: Any, step: QuantizeStep) -> tuple[str, ...]:
    """Names of the nodes that a step works on, in the graph's order: what a search by sensitivity chooses among.

    Args:
        model: as `prepare` left it (nodes need names).
        step: scope, precision, activations, include and exclude.
    """
    if step.precision is not Precision.INT8 or step.activations is Activations.NONE:
        chosen = (w for w in weights(model) if w.size >= MIN_ELEMENTS and weight_allowed(w, step))
        return tuple(dict.fromkeys(u.node for w in chosen for u in w.uses if allowed(u, step)))
    return tuple(n.name for n in computing_nodes(model, step))


def computing_nodes(model: Any, step: QuantizeStep, nodes: frozenset[str] | None = None) -> tuple[Any, ...]:
    """Nodes of the outer graph with an integer kernel for the step's kind of activations."""
    graph = model.graph
    constants = constant_values(graph)
    tensors = {t.name: t for t in graph.initializer}
    dynamic = step.activations is Activations.DYNAMIC
    ops = DYNAMIC_OPS if dynamic else STATIC_OPS
    found = []
    for node in graph.node:
        if not _computes(node, ops, constants, tensors, dynamic=dynamic):
            continue
        if allowed(Use(node.name, node.op_type), step, nodes):
            found.append(node)
    return tuple(found)


def passing_nodes(model: Any, computing: tuple[Any, ...], step: QuantizeStep) -> tuple[Any, ...]:
    """The largest set of passing nodes that lie between quantized ones."""
    graph = model.graph
    constants = constant_values(graph)
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.name)
    outputs = {o.name for o in graph.output}
    producer = {name: node.name for node in graph.node for name in node.output}
    kept = {
        n.name: n
        for n in graph.node
        if n.op_type in PASSING_OPS
        and is_standard(n)
        and n.op_type not in step.exclude.ops
        and n.name not in step.exclude.nodes
        and n.input
        and n.input[0] not in constants
    }
    base = {n.name for n in computing}
    while True:
        quantized = base | kept.keys()
        gone = [
            name
            for name, node in kept.items()
            if any(producer.get(i) not in quantized for i in _numbers(node, constants))
            or not any(r in quantized for o in node.output for r in readers.get(o, ()))
            or any(o in outputs for o in node.output)
        ]
        if not gone:
            return tuple(n for n in graph.node if n.name in kept)
        for name in gone:
            del kept[name]


def _numbers(node: Any, constants: set[str]) -> list[str]:
    inputs = node.input[:1] if node.op_type in _FIRST_INPUT_ONLY else node.input
    return [i for i in inputs if i and i not in constants]


def _computes(node: Any, ops: frozenset[str], constants: set[str], tensors: dict[str, Any], *, dynamic: bool) -> bool:
    if node.op_type == "Attention" and node.domain == "com.microsoft" and dynamic:
        return node.input[1] in tensors and attribute(node, "qkv_hidden_sizes", None) is None
    if node.op_type not in ops or not is_standard(node):
        return False
    if node.op_type == "LSTM":
        # DynamicQuantizeLSTM has neither peepholes (input 7) nor layout.
        plain = not attribute(node, "layout", 0) and not any(node.input[7:8])
        return plain and all(_float(tensors.get(n)) for n in node.input[1:3])
    first, second = node.input[0], node.input[1]
    # A constant that is no initializer (weights stored small, say) has no numbers to quantize here.
    if first in constants or (second in constants and not _float(tensors.get(second))):
        return False
    if node.op_type == "MatMul" and not dynamic:
        return True
    if second not in tensors:
        return False
    if node.op_type == "Gemm":
        bias = node.input[2] if len(node.input) > 2 else ""
        scaled = float(attribute(node, "alpha", 1.0)) != 1.0 or float(attribute(node, "beta", 1.0)) != 1.0
        plain = not attribute(node, "transA", 0) and not scaled
        columns = tensors[second].dims[0 if attribute(node, "transB", 0) else 1]
        return plain and (not bias or (_float(tensors.get(bias)) and list(tensors[bias].dims) == [columns]))
    return not any(n and not _float(tensors.get(n)) for n in node.input[2:3])


def _float(tensor: Any | None) -> bool:
    """Float32 only: integer kernels answer in float32."""
    return tensor is not None and tensor.data_type == FLOATS[0]

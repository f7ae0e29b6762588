"""How labels of channels pass through each operator (onnx.ai/onnx/operators), for `channels`.

A rule reads the labels of a node's inputs, ties or fixes them, puts labels on its outputs, and notes what has to be
rewritten at the node once channels go. An operator without a rule fixes all labels of its inputs. Rules that move
indices about (Reshape, Concat, Slice, …) are in `channel_moves`.

Grouped convolutions: with at least as many groups as inputs of one group (depthwise too) whole groups go, and the
attribute `group` falls; else the same positions of each group go, and `group` stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import channel_moves as moves
from . import channel_sizes as sizes
from .graph import array_of, attribute, is_standard, opset

if TYPE_CHECKING:
    from .channels import Axis, Kept, Labels, Tracer

Rule = Callable[["Tracer", Any], bool]

_UNARY = frozenset(
    {"Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Dropout",
     "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log",
     "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh",
     "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu"}
)  # fmt: skip
_CONTRIB_UNARY = frozenset({"Gelu", "QuickGelu", "FastGelu"})
_ELEMENTWISE = frozenset(
    {"Add", "And", "BitwiseAnd", "BitwiseOr", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual",
     "Max", "Mean", "Min", "Mod", "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor"}
)  # fmt: skip
_POOLS = frozenset({"MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"})
#: Operators that look at one whole axis.
_ALONG = frozenset({"Softmax", "LogSoftmax", "Hardmax", "CumSum", "LpNormalization"})
_NEARLY = 1e-3
_GATES = {"LSTM": (4, 8), "GRU": (3, 6), "RNN": (1, 2)}


def follow(tracer: Tracer, node: Any) -> None:
    """Put labels on the outputs of a node."""
    rule = _rule(node)
    if sizes.spends(node):
        for name in node.input:
            sizes.spend(tracer, name)
    known = all(not name or tracer.of(name) is not None for name in node.input)
    if rule is None or not known or not _applied(rule, tracer, node):
        _unknown(tracer, node)
    sizes.numbers(tracer, node)


def _applied(rule: Rule, tracer: Tracer, node: Any) -> bool:
    try:
        return rule(tracer, node)
    except (IndexError, KeyError, TypeError, ValueError):
        # A node that breaks its operator's definition. What was tied so far only keeps more channels.
        return False


def settle(tracer: Tracer) -> None:
    """After the last node: numbers of channels that leave the graph fix them."""
    for output in tracer.model.graph.output:
        sizes.spend(tracer, output.name)


def _rule(node: Any) -> Rule | None:
    op = node.op_type
    if node.domain == "com.microsoft":
        return _unary if op in _CONTRIB_UNARY else None
    if not is_standard(node):
        return None
    if op in _UNARY:
        return _unary
    if op in _ELEMENTWISE:
        return _elementwise
    if op in _POOLS:
        return _pool
    if op in _ALONG:
        return _along
    if op in _GATES:
        return _recurrent
    if op.startswith("Reduce"):
        return _reduce
    return _RULES.get(op) or moves.RULES.get(op)


def _unknown(tracer: Tracer, node: Any) -> None:
    if (
        any(axis is not None for name in node.input if name for axis in tracer.of(name) or ())
        and node.op_type != "Shape"
    ):
        tracer.unknown[f"node {node.name} ({node.op_type})"] = None
    for name in node.input:
        sizes.spend(tracer, name)
        if name:
            tracer.freeze(name)
    for name in node.output:
        if name and name not in tracer.constants:
            shape = tracer.shapes.get(name)
            tracer.put(name, None if shape is None else [None] * len(shape))


def _unary(tracer: Tracer, node: Any) -> bool:
    for name in node.input[1:]:
        if name:
            tracer.freeze(name)
    axes = tracer.of(node.input[0])
    for name in node.output:
        tracer.put(name, axes)
    return True


def _elementwise(tracer: Tracer, node: Any) -> bool:
    tracer.put(node.output[0], broadcast(tracer, node.input))
    if node.op_type in ("Mul", "Div"):
        for index, name in enumerate(node.input):
            if name in tracer.sums:
                _mean(tracer, node, 1 - index, tracer.sums[name])
    return True


def _mean(tracer: Tracer, node: Any, index: int, labels: Labels) -> None:
    """A sum over n channels times 1/n (or by n) is their mean: it stays one."""
    tensor, values = tracer.constants.get(node.input[index]), tracer.floats(node.input[index])
    if tensor is None or values is None or values.size != 1 or (node.op_type == "Div" and index == 0):
        return
    product = float(values[0]) * len(labels) if node.op_type == "Mul" else float(values[0]) / len(labels)
    if abs(product - 1) > _NEARLY:
        return
    held: Any = array_of(tensor)

    def rewrite(kept: Kept) -> None:
        count = int(kept[labels].sum())
        if count < len(labels):
            times = len(labels) / count if node.op_type == "Mul" else count / len(labels)
            node.input[index] = tracer.constant((held * times).astype(held.dtype), node.output[0])

    tracer.rewrites.append(rewrite)


def broadcast(tracer: Tracer, names: Sequence[str]) -> list[Axis]:
    """Labels of what several tensors come to, element by element."""
    operands = [(tracer.of(n) or [], tracer.dims(n) or ()) for n in names]
    rank = max((len(axes) for axes, _ in operands), default=0)
    result: list[Axis] = []
    for back in range(rank, 0, -1):
        # An axis of one index, or none, is repeated: it says nothing about the others.
        met = [axes[-back] for axes, dims in operands if len(axes) >= back and dims[-back] != 1]
        axis = met[0] if met else None
        for other in met[1:]:
            axis = tracer.tie(axis, other)
        result.append(axis)
    return result


def _pool(tracer: Tracer, node: Any) -> bool:
    if any(node.output[1:]):
        # Indices count through all channels.
        return False
    _keep_first_two(tracer, node)
    return True


def _keep_first_two(tracer: Tracer, node: Any) -> None:
    axes = tracer.of(node.input[0]) or []
    for axis in axes[2:]:
        tracer.fix(axis)
    tracer.put(node.output[0], [*axes[:2], *[None for _ in axes[2:]]])


def _along(tracer: Tracer, node: Any) -> bool:
    axes = list(tracer.of(node.input[0]) or [])
    if node.op_type == "CumSum":
        which = tracer.integers(node.input[1])
        if which is None or which.size != 1:
            return False
        first = int(which.reshape(-1)[0])
    else:
        old = node.op_type != "LpNormalization" and opset(tracer.model) < 13
        first = int(attribute(node, "axis", 1 if old else -1))
        if old:
            # Before opset 13 everything from the axis on was one vector.
            for axis in axes[first:]:
                tracer.fix(axis)
    if not -len(axes) <= first < len(axes):
        return False
    tracer.fix(axes[first])
    tracer.put(node.output[0], axes)
    return True


def _reduce(tracer: Tracer, node: Any) -> bool:
    axes = list(tracer.of(node.input[0]) or [])
    which = attribute(node, "axes", None)
    if which is None and len(node.input) > 1 and node.input[1]:
        given = tracer.integers(node.input[1])
        if given is None:
            return False
        which = given.reshape(-1).tolist()
    if not which:
        if attribute(node, "noop_with_empty_axes", 0):
            tracer.put(node.output[0], axes)
            return True
        which = range(len(axes))
    if not all(-len(axes) <= a < len(axes) for a in which):
        return False
    gone = {int(a) % len(axes) for a in which}
    for i in gone:
        tracer.blur(axes[i])
    dims = tracer.dims(node.input[0]) or ()
    counted = [axes[i] for i in gone if dims[i] != 1]
    if node.op_type == "ReduceSum" and len(counted) == 1 and counted[0] is not None:
        tracer.sums[node.output[0]] = counted[0]
    if attribute(node, "keepdims", 1):
        tracer.put(node.output[0], [None if i in gone else a for i, a in enumerate(axes)])
    else:
        tracer.put(node.output[0], [a for i, a in enumerate(axes) if i not in gone])
    return True


def _conv(tracer: Tracer, node: Any) -> bool:
    x, weight = tracer.of(node.input[0]) or [], tracer.of(node.input[1]) or []
    dims = tracer.dims(node.input[1]) or ()
    groups = int(attribute(node, "group", 1))
    if node.input[1] not in tracer.constants or len(x) != len(weight) or len(dims) < 3:
        return False
    outputs, width = int(dims[0]), int(dims[1])
    if groups < 1 or outputs % groups:
        return False
    for axis in (*x[2:], *weight[2:]):
        tracer.fix(axis)
    if groups == 1:
        tracer.tie(x[1], weight[1]) if width > 1 else tracer.fix(x[1])
    else:
        _grouped(tracer, node, x[1], weight)
    _bias(tracer, node, 2, weight[0])
    tracer.put(node.output[0], [x[0], weight[0], *[None for _ in x[2:]]])
    return True


def _grouped(tracer: Tracer, node: Any, x: Axis, weight: list[Axis]) -> None:
    """Tie the inputs of a grouped Conv to its outputs."""
    groups = int(attribute(node, "group", 1))
    width = 1 if weight[1] is None else len(weight[1])
    outputs = weight[0]
    if x is None or len(x) != groups * width or outputs is None:
        tracer.fix(x)
        for axis in weight[:2]:
            tracer.fix(axis)
        return
    inputs, out = x.reshape(groups, width), outputs.reshape(groups, -1)
    if groups >= width:
        # Whole groups.
        lead = inputs[:, :1]
        tracer.tie(np.broadcast_to(lead, inputs.shape), inputs)
        tracer.tie(np.broadcast_to(lead, out.shape), out)
        tracer.fix(weight[1])
        tracer.rewrites.append(lambda kept: _set(node, "group", int(kept[lead].sum())))
        return
    # The same positions of each group.
    tracer.tie(np.broadcast_to(inputs[:1], inputs.shape), inputs)
    tracer.tie(inputs[0], weight[1])
    if out.shape[1] > 1:
        tracer.tie(np.broadcast_to(out[:1], out.shape), out)
    else:
        tracer.fix(outputs)


def _conv_transpose(tracer: Tracer, node: Any) -> bool:
    x, weight = tracer.of(node.input[0]) or [], tracer.of(node.input[1]) or []
    dims = tracer.dims(node.input[1]) or ()
    groups = int(attribute(node, "group", 1))
    if node.input[1] not in tracer.constants or len(x) != len(weight) or len(dims) < 3:
        return False
    inputs, each = int(dims[0]), int(dims[1])
    if groups < 1 or inputs % groups:
        return False
    for axis in (*x[2:], *weight[2:]):
        tracer.fix(axis)
    tracer.tie(x[1], weight[0]) if inputs > 1 else tracer.fix(x[1])
    out = weight[1]
    if groups > 1:
        # Whole groups: axis 1 of the weight holds one group's outputs, which stay.
        tracer.fix(weight[1])
        if weight[0] is None:
            return False
        blocks = weight[0].reshape(groups, -1)
        tracer.tie(np.broadcast_to(blocks[:, :1], blocks.shape), blocks)
        lead = blocks[:, 0]
        out = np.repeat(lead, each)
        tracer.rewrites.append(lambda kept: _set(node, "group", int(kept[lead].sum())))
    _bias(tracer, node, 2, out)
    tracer.put(node.output[0], [x[0], out, *[None for _ in x[2:]]])
    return True


def _bias(tracer: Tracer, node: Any, index: int, channels: Axis) -> None:
    if len(node.input) > index and node.input[index]:
        axes = tracer.of(node.input[index]) or []
        if channels is not None and len(axes) == 1:
            tracer.tie(axes[0], channels)
        else:
            tracer.freeze(node.input[index])


def _gemm(tracer: Tracer, node: Any) -> bool:
    a, b = list(tracer.of(node.input[0]) or []), list(tracer.of(node.input[1]) or [])
    if len(a) != 2 or len(b) != 2:
        return False
    if attribute(node, "transA", 0):
        a.reverse()
    if attribute(node, "transB", 0):
        b.reverse()
    _contract(tracer, node, a[1], b[0])
    result = [a[0], b[1]]
    if len(node.input) > 2 and node.input[2]:
        bias, dims = tracer.of(node.input[2]) or [], tracer.dims(node.input[2]) or ()
        for back in range(1, len(bias) + 1):
            if dims[-back] != 1:
                tracer.tie(bias[-back], result[-back])
    tracer.put(node.output[0], result)
    return True


def _matmul(tracer: Tracer, node: Any) -> bool:
    a, b = tracer.of(node.input[0]) or [], tracer.of(node.input[1]) or []
    if len(a) < 2 or len(b) < 2:
        return False
    _contract(tracer, node, a[-1], b[-2])
    left, right = tracer.dims(node.input[0]) or (), tracer.dims(node.input[1]) or ()
    batch: list[Axis] = []
    for back in range(max(len(a), len(b)), 2, -1):
        met = [s[-back] for s, d in ((a, left), (b, right)) if len(s) >= back and d[-back] != 1]
        batch.append(tracer.tie(met[0], met[1]) if len(met) == 2 else met[0] if met else None)
    tracer.put(node.output[0], [*batch, a[-2], b[-1]])
    return True


def _contract(tracer: Tracer, node: Any, a: Axis, b: Axis) -> None:
    """Tie the axes that are summed over; without a weight nothing makes the summands of gone channels zero."""
    if a is None and b is None:
        return
    tracer.tie(a, b)
    if not any(name in tracer.computed for name in node.input[:2]):
        tracer.fix(a)
        tracer.fix(b)


def _einsum(tracer: Tracer, node: Any) -> bool:
    equation = attribute(node, "equation", b"").decode(errors="replace").replace(" ", "")
    operands, arrow, output = equation.partition("->")
    terms = operands.split(",")
    if not arrow or "." in equation or len(terms) != len(node.input):
        return False
    found: dict[str, Axis] = {}
    met: set[str] = set()
    for term, name in zip(terms, node.input, strict=True):
        axes = tracer.of(name) or []
        if len(axes) != len(term) or len(set(term)) != len(term):
            return False
        for letter, axis in zip(term, axes, strict=True):
            found[letter] = tracer.tie(found[letter], axis) if letter in met else axis
            met.add(letter)
    weights = "".join(t for t, name in zip(terms, node.input, strict=True) if name in tracer.computed)
    for letter, axis in found.items():
        if letter not in output and letter not in weights:
            tracer.fix(axis)
    if any(letter not in found for letter in output):
        return False
    tracer.put(node.output[0], [found[letter] for letter in output])
    return True


def _batch_norm(tracer: Tracer, node: Any) -> bool:
    x = tracer.of(node.input[0]) or []
    if attribute(node, "training_mode", 0) or not attribute(node, "spatial", 1) or len(x) < 2 or any(node.output[1:]):
        return False
    for index in range(1, len(node.input)):
        _bias(tracer, node, index, x[1])
    tracer.put(node.output[0], x)
    return True


def _layer_norm(tracer: Tracer, node: Any) -> bool:
    if any(node.output[1:]):
        return False
    axes = tracer.of(node.input[0]) or []
    first = int(attribute(node, "axis", -1))
    if not -len(axes) <= first < len(axes):
        return False
    for axis in axes[first:]:
        tracer.blur(axis)
    tracer.put(node.output[0], broadcast(tracer, [n for n in node.input if n]))
    return True


def _group_norm(tracer: Tracer, node: Any) -> bool:
    x = tracer.of(node.input[0]) or []
    groups = int(attribute(node, "num_groups", 1))
    if len(x) < 2 or groups < 1 or x[1] is None or len(x[1]) % groups:
        return False
    blocks = x[1].reshape(groups, -1)
    tracer.tie(np.broadcast_to(blocks[:, :1], blocks.shape), blocks)
    lead = blocks[:, 0]
    for name in node.input[1:3]:
        scale = (tracer.of(name) or [None])[0]
        tracer.tie(scale, lead if scale is not None and len(scale) == groups else x[1])
    tracer.rewrites.append(lambda kept: _set(node, "num_groups", int(kept[lead].sum())))
    tracer.put(node.output[0], x)
    return True


def _recurrent(tracer: Tracer, node: Any) -> bool:
    """LSTM, GRU, RNN: X [S, B, in], W [dirs, gates·H, in], R [dirs, gates·H, H], B [dirs, 2·gates·H], P [dirs, 3·H].

    A hidden unit goes in all directions and gates at once. Its own inputs and recurrence go with it, so what is left
    computes what it did with those weights at zero.
    """
    gates, biases = _GATES[node.op_type]
    if attribute(node, "layout", 0):
        return False
    names = [*node.input, *[""] * (8 - len(node.input))]
    if any(n not in tracer.constants for n in (names[1], names[2])):
        return False
    x, w, r = (tracer.of(n) or [] for n in names[:3])
    if len(x) != 3 or len(w) != 3 or len(r) != 3:
        return False
    hidden = r[2]
    tracer.tie(x[2], w[2]) if tracer.dims(names[1])[2] != 1 else tracer.fix(x[2])  # type: ignore[index]
    stacks: list[tuple[str, int, int]] = [(names[1], 1, gates), (names[2], 1, gates), (names[3], 1, biases)]
    stacks += [(names[5], 2, 1), (names[6], 2, 1), (names[7], 1, 3)]
    for name, axis, times in stacks:
        if name:
            at = (tracer.of(name) or [])[axis]
            tracer.tie(at, None if hidden is None else np.tile(hidden, times))
            for i, other in enumerate(tracer.of(name) or []):
                if i not in (axis, 2 if name in names[1:3] else axis):
                    tracer.fix(other)
    if names[4]:
        tracer.freeze(names[4])
    if hidden is not None:
        tracer.rewrites.append(lambda kept: _set(node, "hidden_size", int(kept[hidden].sum())))
    shapes: list[list[Axis]] = [[x[0], None, x[1], hidden], [None, x[1], hidden], [None, x[1], hidden]]
    for name, axes in zip(node.output, shapes, strict=False):
        tracer.put(name, axes)
    return True


def _set(node: Any, name: str, value: int) -> None:
    """Set an integer attribute that stands there, or would have its default."""
    for a in node.attribute:
        if a.name == name:
            a.i = value
            return
    node.attribute.add(name=name, i=value, type=2)


_RULES: dict[str, Rule] = {
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "RMSNormalization": _layer_norm,
    "SimplifiedLayerNormalization": _layer_norm,
}

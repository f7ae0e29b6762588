"""Full INT8: int8 weights with a scale for each output channel, int8 activations, int32 biases.

As TFLite's quantization specification has it: value = scale · (q − zero), weights symmetric, bias scale = input scale ×
weight scale. Inputs and outputs stay float, with QUANTIZE and DEQUANTIZE at the rim.

Products (convolutions, FULLY_CONNECTED, BATCH_MATMUL) are always int8. What stands between them is int8 where integers
come in and go on to integers, so that nothing is converted back and forth; a softmax at the end, norms and recurrent
states stay float. Operators that only move numbers have one scale for what goes in and out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from edgemodel_api.quantities import counted

from .graph import Array, Graph, Op, Quantization, Tensor
from .ranges import Range
from .weights import quantize_weights, symmetric

_PRODUCTS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL"})
_OWN = frozenset({"ADD", "SUB", "MUL", "MEAN", "LEAKY_RELU", "HARD_SWISH", "PRELU", "ELU", "GELU", "RELU", "RELU6"})
_SAME = frozenset({
    "RESHAPE", "TRANSPOSE", "CONCATENATION", "SPLIT", "STRIDED_SLICE", "PAD", "PADV2", "MAX_POOL_2D",
    "AVERAGE_POOL_2D", "GATHER", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH",
    "TILE", "MIRROR_PAD", "MAXIMUM", "MINIMUM", "REDUCE_MAX", "PACK", "UNPACK",
})  # fmt: skip
#: Outputs of these have a scale that their kernels insist on: (scale, zero).
_FIXED = {"LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0), "SOFTMAX": (1 / 256, -128), "LOG_SOFTMAX": (16 / 256, 127)}
_WEIGHT_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "TRANSPOSE_CONV": 0, "FULLY_CONNECTED": 0}
_BIAS_LIMIT = 2.0**30
#: Beyond this a number is a mask's, and 8 bits for it and for others at once mean nothing.
HUGE = 1e6


def quantize_full(graph: Graph, ranges: Mapping[int, Range], float_nodes: Collection[str] = ()) -> tuple[str, ...]:
    """Rewrite a float graph in place.

    Args:
        graph: float32.
        ranges: of its activations, by id; those without stay float.
        float_nodes: ONNX nodes that stay float.

    Returns:
        notes.
    """
    ranges = sane(graph, ranges)
    chosen = choose(graph, ranges, float_nodes)
    rewriting = _Rewriting(graph, chosen, ranges)
    total = sum(op.outputs[0].dtype == np.float32 for op in graph.ops)
    graph.ops = rewriting.rewrite()
    graph.drop_dead()
    more = quantize_weights(graph, float_nodes)
    rest = tuple(f"of the others, {note}" for note in more if len(chosen) < total)
    of = f"of {counted(total, 'float operator')}"
    computing = counted(len(chosen), f"{of} computes", f"{of} compute")
    return (f"{computing} in int8, {counted(len(rewriting.groups), 'scale')}", *rest)


def sane(graph: Graph, ranges: Mapping[int, Range]) -> dict[int, Range]:
    """Without tensors that hold a mask's huge numbers; what is padded with such a number keeps its input's range."""
    found = dict(ranges)
    for op in graph.ops:
        source = op.inputs[0] if op.code == "PADV2" else None
        if source is not None and id(source) in ranges:
            found[id(op.outputs[0])] = ranges[id(source)]
    return {i: r for i, r in found.items() if max(-r[0], r[1]) <= HUGE}


def candidates(graph: Graph) -> set[int]:
    """Ids of the float activations around operators that have int8 kernels: those whose ranges are needed."""
    found: set[int] = set()
    for op in graph.ops:
        if not op.exact and (op.code in _PRODUCTS | _OWN | _SAME or op.code in _FIXED):
            found.update(id(t) for t in (*_activations(op), *op.outputs) if t.dtype == np.float32)
    return found


def choose(graph: Graph, ranges: Mapping[int, Range], float_nodes: Collection[str] = ()) -> set[int]:
    """Ids of the operators that become int8."""
    chosen = {id(op) for op in graph.ops if _can(op, ranges) and op.node not in float_nodes and not op.exact}
    producers, readers = graph.producers(), graph.readers()
    outputs = {id(t) for t in graph.outputs.values()}
    changed = True
    while changed:
        changed = False
        for op in graph.ops:
            if id(op) not in chosen or op.code in _PRODUCTS:
                continue
            before = any(id(producers.get(id(t))) in chosen for t in _activations(op))
            after = [id(r) in chosen for t in op.outputs for r in readers.get(id(t), [])]
            shown = any(id(t) in outputs for t in op.outputs)
            moves_in = op.code in _SAME and bool(after) and all(after) and not shown
            if not (moves_in or (before and any(after))):
                chosen.discard(id(op))
                changed = True
    return chosen


def _activations(op: Op) -> list[Tensor]:
    return [t for t in op.inputs if t is not None and t.data is None and t.dtype == np.float32]


def _can(op: Op, ranges: Mapping[int, Range]) -> bool:
    if op.code not in _PRODUCTS | _OWN | _SAME and op.code not in _FIXED:
        return False
    floats = [*_activations(op), *op.outputs]
    if not _activations(op) or any(t.dtype != np.float32 or id(t) not in ranges for t in floats):
        return False
    constants = [t for t in op.inputs if t is not None and t.data is not None and t.dtype == np.float32]
    if any(not np.isfinite(t.data).all() for t in constants if t.data is not None):
        return False
    if op.code in _WEIGHT_AXIS:
        # Weight and bias are constants, the input is none.
        place = 2 if op.code == "TRANSPOSE_CONV" else 0
        weight, bias = op.inputs[1], op.inputs[2] if place == 0 and len(op.inputs) > 2 else None
        return op.inputs[place] in _activations(op) and _is_constant(weight) and (bias is None or _is_constant(bias))
    return True


def _is_constant(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.data is not None


def parameters(low: float, high: float) -> tuple[float, int]:
    """Scale and zero of int8 numbers over a range, widened to have 0 in it, where 0 is a number exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32(max((high - low) / 255, 1e-9)))
    return scale, int(np.clip(np.rint(-128 - low / scale), -128, 127))


def quantized(values: Array, scale: float, zero: int) -> Array:
    """int8 numbers of floats."""
    numbers: Array = np.clip(np.rint(values.astype(np.float64) / scale) + zero, -128, 127).astype(np.int8)
    return numbers


class _Rewriting:
    def __init__(self, graph: Graph, chosen: set[int], ranges: Mapping[int, Range]) -> None:
        self.graph = graph
        self.chosen = chosen
        self.groups = _scales(graph, chosen, ranges)
        self.made: list[Op] = []
        self._integers: dict[int, Tensor] = {}
        self._floats: set[int] = {id(t) for t in graph.inputs.values()}
        self._weights: dict[tuple[int, float, int], tuple[Tensor, Tensor | None]] = {}

    def rewrite(self) -> list[Op]:
        for op in self.graph.ops:
            if id(op) in self.chosen:
                self._integer(op)
                continue
            for tensor in op.inputs:
                if tensor is not None:
                    self._as_float(tensor)
            self.made.append(op)
            self._floats.update(id(t) for t in op.outputs)
        for tensor in self.graph.outputs.values():
            self._as_float(tensor)
        return self.made

    def _as_float(self, tensor: Tensor) -> None:
        if id(tensor) in self._integers and id(tensor) not in self._floats:
            self.made.append(Op("DEQUANTIZE", [self._integers[id(tensor)]], [tensor]))
            self._floats.add(id(tensor))

    def _as_integer(self, tensor: Tensor) -> Tensor:
        if id(tensor) not in self._integers:
            result = self._like(tensor)
            self.made.append(Op("QUANTIZE", [tensor], [result]))
            self._integers[id(tensor)] = result
        return self._integers[id(tensor)]

    def _like(self, tensor: Tensor, fixed: tuple[float, int] | None = None) -> Tensor:
        scale, zero = fixed or self.groups[id(tensor)]
        return Tensor(f"{tensor.name}/int8", tensor.shape, np.dtype(np.int8), None, _one(scale, zero))

    def _integer(self, op: Op) -> None:
        products = op.code in _WEIGHT_AXIS
        inputs = self._product_inputs(op) if products else [self._operand(op, t) for t in op.inputs]
        outputs = []
        behind: list[Op] = []
        for tensor in op.outputs:
            fixed = _FIXED.get(op.code)
            if fixed is not None and not _close(fixed, self.groups[id(tensor)]):
                # The kernel has its own scale, and those behind it another.
                raw, wanted = self._like(tensor, fixed), self._like(tensor)
                behind.append(Op("QUANTIZE", [raw], [wanted], node=op.node))
                self._integers[id(tensor)] = wanted
                outputs.append(raw)
            else:
                self._integers[id(tensor)] = self._like(tensor)
                outputs.append(self._integers[id(tensor)])
        self.made += [Op(op.code, inputs, outputs, op.options, op.node), *behind]

    def _operand(self, op: Op, tensor: Tensor | None) -> Tensor | None:
        if tensor is None or tensor.dtype != np.float32:
            return tensor
        if tensor.data is None:
            return self._as_integer(tensor)
        if op.code in _SAME:
            scale, zero = self.groups[id(op.outputs[0])]
        else:
            scale, zero = parameters(float(tensor.data.min()), float(tensor.data.max()))
        numbers = quantized(tensor.data, scale, zero)
        return Tensor(f"{tensor.name}/int8", tensor.shape, numbers.dtype, numbers, _one(scale, zero))

    def _product_inputs(self, op: Op) -> list[Tensor | None]:
        if op.code == "TRANSPOSE_CONV":
            weight, _ = self._weight(op, self._as_integer(op.inputs[2]) if op.inputs[2] else None, None)
            return [op.inputs[0], weight, self._as_integer(op.inputs[2]) if op.inputs[2] else None]
        if op.inputs[0] is None:
            raise AssertionError
        x = self._as_integer(op.inputs[0])
        weight, bias = self._weight(op, x, op.inputs[2] if len(op.inputs) > 2 else None)
        return [x, weight, bias]

    def _weight(self, op: Op, x: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        weight = op.inputs[1]
        if weight is None or weight.data is None or x is None or x.quantization is None:
            raise AssertionError
        step = float(x.quantization.scale[0])
        key = (id(weight), step, id(bias))
        if key not in self._weights:
            self._weights[key] = _integers(op.code, weight, bias, step)
        return self._weights[key]


def _integers(code: str, weight: Tensor, bias: Tensor | None, step: float) -> tuple[Tensor, Tensor | None]:
    """int8 weight and int32 bias for an input scale."""
    axis = _WEIGHT_AXIS[code]
    if weight.data is None:
        raise AssertionError
    values = weight.data
    numbers, scale = symmetric(values, axis)
    if bias is not None and bias.data is not None:
        # A bias that int32 cannot hold at this scale makes the scale larger.
        least = np.abs(bias.data.reshape(-1)).astype(np.float64) / (_BIAS_LIMIT * step)
        if np.any(least > scale):
            scale = np.maximum(scale, least).astype(np.float32)
            shape = [1] * values.ndim
            shape[axis] = -1
            numbers = np.clip(np.rint(values / scale.reshape(shape)), -127, 127).astype(np.int8)
    zeros = np.zeros(scale.size, np.int64)
    stored = Tensor(f"{weight.name}/int8", weight.shape, numbers.dtype, numbers, Quantization(scale, zeros, axis))
    if bias is None or bias.data is None:
        return stored, None
    bias_scale = (scale.astype(np.float64) * step).astype(np.float32)
    rounded = np.rint(bias.data.reshape(-1).astype(np.float64) / bias_scale.astype(np.float64))
    whole = np.clip(rounded, -(2**31), 2**31 - 1).astype(np.int32)
    return stored, Tensor(f"{bias.name}/int32", bias.shape, whole.dtype, whole, Quantization(bias_scale, zeros, 0))


def _one(scale: float, zero: int) -> Quantization:
    return Quantization(np.asarray([scale], np.float32), np.asarray([zero], np.int64))


def _close(a: tuple[float, int], b: tuple[float, int]) -> bool:
    return a[1] == b[1] and abs(a[0] - b[0]) <= 1e-9


def _scales(graph: Graph, chosen: set[int], ranges: Mapping[int, Range]) -> dict[int, tuple[float, int]]:
    """Scale and zero of every tensor that is int8: one for all that are joined by operators that only move numbers."""
    parent: dict[int, int] = {}

    def root(i: int) -> int:
        parent.setdefault(i, i)
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    fixed: dict[int, tuple[float, int]] = {}
    members: dict[int, Tensor] = {}
    for op in graph.ops:
        if id(op) not in chosen:
            continue
        tensors = [*_activations(op), *op.outputs]
        members.update((id(t), t) for t in tensors)
        for tensor in tensors:
            root(id(tensor))
        if op.code in _SAME:
            for tensor in tensors[1:]:
                parent[root(id(tensor))] = root(id(tensors[0]))
        if op.code in _FIXED:
            fixed[id(op.outputs[0])] = _FIXED[op.code]
    sizes: dict[int, int] = {}
    limits: dict[int, Range] = {}
    for i in members:
        r = root(i)
        low, high = limits.get(r, (0.0, 0.0))
        sizes[r] = sizes.get(r, 0) + 1
        limits[r] = (min(low, ranges[i][0]), max(high, ranges[i][1]))
    return {i: fixed[i] if i in fixed and sizes[root(i)] == 1 else parameters(*limits[root(i)]) for i in members}

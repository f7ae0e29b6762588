"""Which channels of a network must go together, found by following every index of every axis through the graph. Pure.

Each index of each axis of each weight gets a label. Operators tie labels together: a Conv ties the channels of its
input to axis 1 of its weight, and the channels of its output are the labels of axis 0; an Add of two branches ties
both; Concat puts labels one behind the other; a Reshape of [N, C, H, W] to [N, C·H·W] repeats each label H·W times; one
of [B, S, heads·width] to [B, S, heads, width] ties the labels of a head. The connected components are *classes*: sets
of indices, through the whole graph, that can only go together (cf. the dependency graphs of Fang et al. 2023,
"DepGraph: Towards Any Structural Pruning", arXiv:2301.12900). The rules are in `channel_rules`.

Labels that reach an input or output of the model, an operator without a rule, a subgraph, or an axis on which an
operator looks at all channels at once (Softmax, TopK, …) are fixed: they never go. That is always safe.

A `ChannelGroup` is a set of classes that lie on the same axes: any of them may go as long as one stays. Its `exact` is
False where a mean or norm is taken over the channels (LayerNormalization): the others' numbers then change when one
goes, so that a smaller model differs from one with those channels zeroed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from . import channel_rules
from .graph import FLOATS, array_of, constant_values, fresh, names_in, opset, subgraphs, uses_of
from .prepare import infer_shapes
from .weights import Weight, weights

Labels = npt.NDArray[np.int64]
#: Labels of one axis; None: the axis never changes.
Axis = Labels | None
#: A dimension: a number, a name, or a name made up for one that is unknown.
Dimension = int | str
#: Whether each label stays.
Kept = npt.NDArray[np.bool_]
FIXED = 0
_NAMED = 5


@dataclass(frozen=True, eq=False)
class ChannelSlice:
    """Where a group's classes lie on one axis of one initializer.

    Attributes:
        weight: the initializer's name.
        axis: of it.
        classes: [dimension], the class (0 … size - 1) that each index belongs to; -1: none of this group's.
        kernel: whether it is a weight that inputs are multiplied with; False: a bias, a norm's scale, a constant.
        output: whether the axis holds the output channels of the kernel, not the input's.
        nodes: names of the nodes that read it.
        ops: and their operators.
    """

    weight: str
    axis: int
    classes: Labels
    kernel: bool
    output: bool
    nodes: tuple[str, ...]
    ops: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Classes of channels on the same axes: each goes or stays as a whole, and one must stay.

    Attributes:
        name: of the first node that produces them; with a number where a node has several.
        size: number of classes.
        weights: all parameters that they run through.
        exact: whether the model without some of them equals the one in which their parameters are zero.
    """

    name: str
    size: int
    weights: tuple[ChannelSlice, ...]
    exact: bool


@dataclass
class Tracer:
    """Labels so far, while the rules go through the graph in the order of its nodes.

    Attributes:
        model: what is traced; rewrites change it when they are called.
        shapes: dimensions of each tensor of known rank.
        constants: initializers and the values of Constant nodes.
        axes: labels of each axis of each tensor seen; None: rank unknown.
        rewrites: what has to be changed at nodes once channels go: attributes and constants that hold numbers of them.
        unknown: "node NAME (Op)" of operators without a rule, where they met labels.
    """

    model: Any
    shapes: Mapping[str, tuple[Dimension, ...]]
    constants: Mapping[str, Any]
    computed: frozenset[str] | set[str]
    axes: dict[str, list[Axis] | None] = field(default_factory=dict)
    rewrites: list[Callable[[Kept], None]] = field(default_factory=list)
    unknown: dict[str, None] = field(default_factory=dict)
    fixed: list[Labels] = field(default_factory=list)
    inexact: list[Labels] = field(default_factory=list)
    ties: list[tuple[Labels, Labels]] = field(default_factory=list)
    count: int = 1
    taken: set[str] = field(default_factory=set)
    opset: int = 1
    #: Integer tensors: labels of the axes whose sizes they depend on, and, of a shape's entries, which axis each counts.
    sizes: dict[str, list[Labels]] = field(default_factory=dict)
    entries: dict[str, list[Axis]] = field(default_factory=dict)
    #: Tensors that are a sum over one axis with labels.
    sums: dict[str, Labels] = field(default_factory=dict)

    def of(self, name: str) -> list[Axis] | None:
        """Labels of a tensor's axes; initializers get theirs when they are first met."""
        if name not in self.axes:
            tensor = self.constants.get(name)
            if tensor is None:
                shape = self.shapes.get(name)
                self.axes[name] = None if shape is None else [None] * len(shape)
            else:
                # Without elements its dimensions could be any.
                floats = tensor.data_type in FLOATS and all(tensor.dims)
                self.axes[name] = [self.new(int(d)) if floats and d > 1 else None for d in tensor.dims]
        return self.axes[name]

    def new(self, size: int) -> Labels:
        """Labels that nothing has yet."""
        self.count += size
        return np.arange(self.count - size, self.count, dtype=np.int64)

    def dims(self, name: str) -> tuple[Dimension, ...] | None:
        """Shape of a tensor; an axis with labels has a number."""
        tensor = self.constants.get(name)
        if tensor is not None:
            return tuple(int(d) for d in tensor.dims)
        shape, axes = self.shapes.get(name), self.of(name)
        if axes is None:
            return None
        if shape is None or len(shape) != len(axes):
            shape = tuple(f"?{name}:{i}" for i in range(len(axes)))
        return tuple(d if a is None else len(a) for d, a in zip(shape, axes, strict=True))

    def put(self, name: str, axes: list[Axis] | None) -> None:
        """Set the labels of a node's output. Axes of one index never change."""
        if name:
            self.axes[name] = None if axes is None else [None if a is None or len(a) < 2 else a for a in axes]

    def tie(self, a: Axis, b: Axis) -> Axis:
        """Both go together, index by index; an axis without labels fixes the other one."""
        if a is None or b is None or len(a) != len(b):
            self.fix(a)
            self.fix(b)
            return None if a is None or b is None else a
        self.ties.append((a, b))
        return a

    def fix(self, axis: Axis) -> None:
        """These labels never go."""
        if axis is not None:
            self.fixed.append(axis)

    def freeze(self, name: str) -> None:
        """Nothing of this tensor goes."""
        for axis in self.of(name) or ():
            self.fix(axis)

    def blur(self, axis: Axis) -> None:
        """Something depends on all of these channels at once."""
        if axis is not None:
            self.inexact.append(axis)

    def integers(self, name: str) -> Labels | None:
        """Values of a constant of integers, as it is now."""
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_type in FLOATS:
            return None
        values = array_of(tensor)
        return values.astype(np.int64) if np.issubdtype(values.dtype, np.integer) else None

    def floats(self, name: str) -> npt.NDArray[np.float64] | None:
        """Values of a constant of floats, flat."""
        tensor = self.constants.get(name)
        return None if tensor is None else array_of(tensor).astype(np.float64).reshape(-1)

    def constant(self, values: Any, near: str) -> str:
        """Add an initializer; its name."""
        from onnx import numpy_helper

        name = fresh(f"{near}/kept", self.taken)
        self.model.graph.initializer.append(numpy_helper.from_array(values, name))
        return name


@dataclass(frozen=True, eq=False)
class Traced:
    """Labels of a whole graph, and the groups that they fall into.

    Attributes:
        tracer: labels and rewrites.
        groups: in the order in which the graph's nodes meet their weights.
        class_of: [labels], number of the class of each label, counted through all groups; -1: fixed.
        first: number of the first class of each group.
        notes: what a user should know.
    """

    tracer: Tracer
    groups: tuple[ChannelGroup, ...]
    class_of: Labels
    first: Mapping[str, int]
    notes: tuple[str, ...]


def trace(model: Any) -> Traced:
    """Follow the channels through a model. Rewrites of the result change this very model."""
    graph = model.graph
    tracer = Tracer(
        model, _shapes(model), constants(graph), constant_values(graph), taken=names_in(graph), opset=opset(model)
    )
    for tensor in graph.input:
        tracer.axes[tensor.name] = [None] * len(tracer.shapes[tensor.name]) if tensor.name in tracer.shapes else None
    for node in graph.node:
        channel_rules.follow(tracer, node)
        for inner in subgraphs(node):
            for name in uses_of(inner):
                tracer.freeze(name)
    for output in graph.output:
        tracer.freeze(output.name)
    for tensor in graph.sparse_initializer:
        tracer.freeze(tensor.values.name)
    channel_rules.settle(tracer)
    return _grouped(tracer)


def channel_groups(model: Any) -> tuple[ChannelGroup, ...]:
    """Channels of a model that must go together, in the order of its nodes.

    Args:
        model: a ModelProto; not changed. Groups that touch its inputs or outputs are not among them.
    """
    return trace(model).groups


def _grouped(tracer: Tracer) -> Traced:
    root = components(tracer.count, tracer.ties)
    free = np.ones(tracer.count, dtype=bool)
    free[root[FIXED]] = False
    for axis in tracer.fixed:
        free[root[axis]] = False
    blurred = np.zeros(tracer.count, dtype=bool)
    for axis in tracer.inexact:
        blurred[root[axis]] = True
    # Classes that lie on the same axes form a group.
    on: dict[int, list[int]] = {}
    seen: dict[bytes, int] = {}
    for axes in tracer.axes.values():
        for at in axes or ():
            if at is not None:
                lying = np.unique(root[at])
                lying = lying[free[lying]]
                if (key := lying.tobytes()) not in seen:
                    seen[key] = len(seen)
                    for member in lying.tolist():
                        on.setdefault(member, []).append(seen[key])
    sets: dict[tuple[int, ...], list[int]] = {}
    for member in sorted(on):
        sets.setdefault(tuple(on[member]), []).append(member)
    found = _Slices(tracer, root)
    class_of = np.full(tracer.count, -1, dtype=np.int64)
    groups: list[ChannelGroup] = []
    first: dict[str, int] = {}
    start = 0
    for members in sorted(sets.values()):
        number = np.full(tracer.count, -1, dtype=np.int64)
        number[members] = np.arange(len(members))
        slices = found.of(members, number)
        if len(members) < 2 or not slices:
            continue
        makers = [s for s in slices if s.kernel and s.output] or [s for s in slices if s.kernel] or list(slices)
        name = fresh(makers[0].nodes[0] if makers[0].nodes else makers[0].weight, set(first))
        groups.append(ChannelGroup(name, len(members), slices, exact=not blurred[members].any()))
        mine = number[root] >= 0
        class_of[mine] = start + number[root][mine]
        first[name] = start
        start += len(members)
    return Traced(tracer, tuple(groups), class_of, first, _notes(tracer))


def _notes(tracer: Tracer) -> tuple[str, ...]:
    notes = []
    if tracer.unknown:
        names = list(tracer.unknown)
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        notes.append(
            f"channels that meet these stay, as their operators are not followed: {', '.join(names[:_NAMED])}{more}"
        )
    return tuple(notes)


class _Slices:
    """Finds the parameters of a class."""

    def __init__(self, tracer: Tracer, root: Labels) -> None:
        self.kernels: dict[str, Weight] = {w.name: w for w in weights(tracer.model)}
        self.readers: dict[str, list[Any]] = {}
        for node in tracer.model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        #: By class: the initializers' axes on which it lies, in the order of the nodes.
        self.places: dict[int, list[tuple[str, int]]] = {}
        self.roots: dict[tuple[str, int], Labels] = {}
        for name, axes in tracer.axes.items():
            if name in tracer.constants:
                for i, axis in enumerate(axes or ()):
                    if axis is not None:
                        self.roots[name, i] = root[axis]
                        for member in np.unique(root[axis]).tolist():
                            self.places.setdefault(member, []).append((name, i))

    def of(self, members: Iterable[int], number: Labels) -> tuple[ChannelSlice, ...]:
        places = dict.fromkeys(p for m in members for p in self.places.get(m, ()))
        return tuple(self._slice(name, axis, number[self.roots[name, axis]]) for name, axis in places)

    def _slice(self, name: str, axis: int, classes: Labels) -> ChannelSlice:
        weight = self.kernels.get(name)
        if weight is not None:
            nodes, ops = tuple(u.node for u in weight.uses), tuple(u.op for u in weight.uses)
            return ChannelSlice(name, axis, classes, True, axis in weight.channel_axes, nodes, ops)
        readers = self.readers.get(name, [])
        names, ops = tuple(n.name for n in readers), tuple(n.op_type for n in readers)
        return ChannelSlice(name, axis, classes, False, False, names, ops)


def components(count: int, ties: Iterable[tuple[Labels, Labels]]) -> Labels:
    """Connected components: [count], the smallest label of each label's component.

    Each round hangs the larger root of a tie below the smaller one and flattens (Shiloach and Vishkin 1982): few rounds.
    """
    root = np.arange(count, dtype=np.int64)
    pairs = [(a.reshape(-1), b.reshape(-1)) for a, b in ties]
    if not pairs:
        return root
    left, right = (np.concatenate(side) for side in zip(*pairs, strict=True))
    while True:
        a, b = root[left], root[right]
        differ = a != b
        if not differ.any():
            return root
        left, right, a, b = left[differ], right[differ], a[differ], b[differ]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while (higher := root[root]).tobytes() != root.tobytes():
            root = higher


def constants(graph: Any) -> dict[str, Any]:
    """TensorProtos by name: initializers that no caller feeds, and the values of Constant nodes."""
    fed = {i.name for i in graph.input}
    found = {t.name: t for t in graph.initializer if t.name not in fed}
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    found[node.output[0]] = attribute.t
    return found


def _shapes(model: Any) -> dict[str, tuple[Dimension, ...]]:
    """Shapes of all tensors of the outer graph whose rank is known."""
    graph = infer_shapes(model).graph
    shapes: dict[str, tuple[Dimension, ...]] = {}
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.tensor_type
        if value.type.HasField("tensor_type") and kind.HasField("shape"):
            shapes[value.name] = tuple(
                int(d.dim_value) if d.HasField("dim_value") else d.dim_param or f"?{value.name}:{i}"
                for i, d in enumerate(kind.shape.dim)
            )
    return shapes

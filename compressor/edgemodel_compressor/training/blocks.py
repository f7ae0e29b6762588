"""Depth: blocks that a network repeats, and the same network without some of them.

The nodes are read in their order. A *segment* leads from one tensor x to the next tensor y through which everything
passes that is computed between them; tensors that only pass by (an attention mask, positions) may do so. A *unit* is
what can be left out: segments that follow each other several times with the same operators, attributes and shapes of
weights (transformer layers, stages of a residual network), or one residual segment (an Add of x itself); x and y have
the same shape, so that x takes the place of y.

Sources: dropping whole layers of a teacher: Sanh et al. 2019, "DistilBERT" (arXiv:1910.01108); their importance by
how much a block turns its input: Men et al. 2024, "ShortGPT" (Block Influence, arXiv:2403.03853).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import helper

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted
from edgemodel_compressor.evaluate.runner import BATCH_ROWS, Arrays
from edgemodel_compressor.steps.graph import constant_values, copy_of, sort_nodes, subgraphs, uses_of
from edgemodel_compressor.steps.prepare import infer_shapes

from .answers import in_parts, model_runner
from .heads import with_outputs
from .segments import Segment, segments_of

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Unit:
    """What can be left out.

    Attributes:
        entry: tensor x.
        exit: tensor y, which x replaces.
        nodes: positions of the nodes between them.
    """

    entry: str
    exit: str
    nodes: range


@dataclass(frozen=True)
class Run:
    """Units of one kind.

    Attributes:
        units: in the order of the nodes.
        least: how many of them have to stay.
    """

    units: tuple[Unit, ...]
    least: int


def runs(model: Any) -> tuple[Run, ...]:
    """What repeats in a model, in the order of its nodes; the last may be single residual blocks."""
    flat = _sorted(model)
    shapes = _shapes(flat)
    segments = segments_of(flat)
    outputs = {o.name for o in flat.graph.output}
    found: list[Run] = []
    singles: list[Unit] = []
    index = 0

    def unit(begin: int, end: int) -> Unit | None:
        some = segments[begin:end]
        entry, exit_ = some[0].entry, some[-1].exit
        same = shapes.get(entry) is not None and shapes.get(entry) == shapes.get(exit_)
        if not same or not any(s.weighted for s in some) or any(s.exit in outputs for s in some):
            return None
        return Unit(entry, exit_, range(some[0].nodes.start, some[-1].nodes.stop))

    while index < len(segments):
        period, count = _repetition(segments, index)
        units = [unit(index + k * period, index + (k + 1) * period) for k in range(count)]
        if count > 1 and all(u is not None for u in units):
            found.append(Run(tuple(u for u in units if u is not None), 1))
            index += period * count
            continue
        single = unit(index, index + 1) if segments[index].residual else None
        singles += [] if single is None else [single]
        index += 1
    return (*found, Run(tuple(singles), 0)) if singles else tuple(found)


def shallower(
    model: Any, share: float, *, rows: Arrays | None = None, at_once: int = BATCH_ROWS
) -> tuple[Any, int, int]:
    """A copy with about this share of its units.

    Args:
        model: ModelProto.
        share: of the units of each run, rounded half up; one of repeated ones always stays.
        rows: a few rows: the units that turn them least go first. None: evenly spread ones stay.
        at_once: how many of them one run gets.

    Returns:
        The copy, how many units there were, and how many stayed.

    Raises:
        InputError: there is no such block, or none would go.
    """
    found = runs(model)
    total = sum(len(r.units) for r in found)
    if not total:
        raise InputError(
            "student.depth: the model has no repeated or residual blocks whose input and output have the same shape: use"
            " student.width or student.rank"
        )
    influence = None if rows is None else _influence(model, found, rows, at_once)
    dropped: list[Unit] = []
    for run in found:
        keep = max(run.least, math.floor(share * len(run.units) + 0.5))
        if influence is None:
            kept = {i * len(run.units) // keep for i in range(keep)}
        else:
            scores = np.array([influence[u.exit] for u in run.units])
            kept = set(np.argsort(-scores, kind="stable")[:keep].tolist())
        dropped += [u for i, u in enumerate(run.units) if i not in kept]
    if not dropped:
        raise InputError(
            f"student.depth: {share:.0%} of the model's {counted(total, 'repeated block')} is all of them: give less,"
            " or use student.width or student.rank"
        )
    return _without(model, dropped), total, total - len(dropped)


def _sorted(model: Any) -> Any:
    result = copy_of(model)
    sort_nodes(result.graph)
    return result


def _repetition(segments: Sequence[Segment], index: int) -> tuple[int, int]:
    """(period, count) of what begins here, with a weight, and repeats, by the smallest period; (1, 1) if nothing does."""
    if not segments[index].weighted:
        return 1, 1
    signatures = [s.signature for s in segments]
    for period in range(1, (len(segments) - index) // 2 + 1):
        first = signatures[index : index + period]
        count = 1
        while signatures[index + count * period : index + (count + 1) * period] == first:
            count += 1
        if count > 1:
            return period, count
    return 1, 1


def _influence(model: Any, found: Sequence[Run], rows: Arrays, at_once: int) -> dict[str, float]:
    """By exit: 1 − the mean cosine between what goes into a unit and what comes out."""
    tensors = list(dict.fromkeys(t for r in found for u in r.units for t in (u.entry, u.exit)))
    inputs = {i.name for i in model.graph.input}
    ask = model_runner(with_outputs(model, [t for t in tensors if t not in inputs]))
    cosines: dict[str, list[Floats]] = {}
    for says in in_parts(lambda some: {**some, **ask(some)}, rows, at_once):
        for run in found:
            for unit in run.units:
                a, b = (says[t].astype(np.float64).reshape(len(says[t]), -1) for t in (unit.entry, unit.exit))
                norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
                cosines.setdefault(unit.exit, []).append((a * b).sum(axis=1) / np.maximum(norms, 1e-12))
    return {name: float(1 - np.mean(np.concatenate(parts))) for name, parts in cosines.items()}


def _without(model: Any, dropped: Sequence[Unit]) -> Any:
    result = _sorted(model)
    graph = result.graph
    gone = {position for unit in dropped for position in unit.nodes}
    instead = {unit.exit: unit.entry for unit in dropped}
    fixed = constant_values(graph)
    # Graphs inside of nodes read outer tensors by name: there the name has to stay.
    captured = {name for node in graph.node for inner in subgraphs(node) for name in uses_of(inner)}
    last = {unit.nodes.stop - 1: unit.exit for unit in dropped if unit.exit in captured}
    kept = []
    for position, node in enumerate(graph.node):
        if position in gone and not all(o in fixed for o in node.output):
            if position in last:
                name = last[position]
                kept.append(helper.make_node("Identity", [_end(instead, name)], [name], name=f"{node.name}/instead"))
            continue
        one = copy_of(node)
        for index, name in enumerate(one.input):
            one.input[index] = _end(instead, name)
        kept.append(one)
    del graph.node[:]
    graph.node.extend(kept)
    _drop_dead(graph)
    return result


def _end(instead: dict[str, str], name: str) -> str:
    while name in instead:
        name = instead[name]
    return name


def _drop_dead(graph: Any) -> None:
    """Nodes and initializers that nothing reads any more, and shapes of tensors that are gone."""
    while True:
        read = uses_of(graph)
        alive = [n for n in graph.node if any(read.get(o) for o in n.output if o)]
        if len(alive) == len(graph.node):
            break
        copies = [copy_of(n) for n in alive]
        del graph.node[:]
        graph.node.extend(copies)
    read = uses_of(graph)
    tensors = [copy_of(t) for t in graph.initializer if read.get(t.name)]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    made = {o for n in graph.node for o in n.output}
    infos = [copy_of(v) for v in graph.value_info if v.name in made]
    del graph.value_info[:]
    graph.value_info.extend(infos)


def _shapes(model: Any) -> dict[str, tuple[Any, ...]]:
    """Type and dimensions by tensor, where ONNX can tell; an unknown dimension equals no other."""
    graph = infer_shapes(model).graph
    found: dict[str, tuple[Any, ...]] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if not value.type.HasField("tensor_type") or not tensor.HasField("shape"):
            continue
        dims = []
        for axis, d in enumerate(tensor.shape.dim):
            held = d.WhichOneof("value")
            dims.append(d.dim_value if held == "dim_value" else d.dim_param or (value.name, axis))
        found[value.name] = (tensor.elem_type, *dims)
    return found

"""Calibration: ranges of activations, in memory that depends on neither the number of samples nor of tensors.

onnxruntime's own calibrators make every intermediate tensor an output and keep what they answer (users saw 100 GB for
32 samples, onnxruntime #10503). Here tensors become outputs in groups whose batch stays under `GROUP_BYTES` (their
sizes are measured by one run that answers shapes only), each batch goes into histograms at once, and the data is
streamed again for each group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from edgemodel_api.edgemodel import QuantizeStep
from edgemodel_api.errors import InputError
from edgemodel_compressor.evaluate.runner import Arrays, Batches
from edgemodel_compressor.formats.datafile import read_saved
from edgemodel_compressor.formats.lean import session_of

from .histogram import Histogram
from .nodes import computing_nodes, passing_nodes
from .prepare import infer_shapes

GROUP_BYTES = 32 * 2**20
#: Graphs with thousands of tensors: so many are outputs at once at most.
GROUP_TENSORS = 256
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class TensorRange:
    """What one activation was seen to be.

    Attributes:
        low: smallest value.
        high: largest value.
        clipped: range, with 0 in it, of the least squared error for 8-bit numbers.
        finite: False: some values were NaN or infinite (a mask): such a tensor cannot be quantized.
    """

    low: float
    high: float
    clipped: tuple[float, float]
    finite: bool = True


@dataclass(frozen=True)
class Ranges:
    """Ranges by tensor name.

    Attributes:
        tensors: every float activation that a static step may quantize, graph inputs too.
        samples: how many rows they were taken from.
    """

    tensors: Mapping[str, TensorRange]
    samples: int


def calibrate(
    model_path: Path,
    data: Batches,
    *,
    rows: int,
    samples: int,
    seed: int,
    progress: Progress | None = None,
) -> Ranges:
    """Run the float model over calibration data.

    Args:
        model_path: the prepared model.
        data: rows named as the model's inputs.
        rows: of one run (the model's fixed batch, or what memory affords).
        samples: use about so many rows, spread over the data; fewer where there are fewer.
        seed: where the spread begins.
        progress: called with (batches done, batches in all).

    Raises:
        InputError: no data, or the model fails on it.
    """
    model = infer_shapes(_load(model_path))
    names = activations(model)
    inputs = _float_inputs(model)
    histograms = {name: Histogram() for name in (*names, *inputs)}
    seen: dict[str, int] = {}
    for count, tensors in observed(
        model, (*names, *inputs), data, rows=rows, samples=samples, seed=seed, progress=progress
    ):
        for name, value in tensors.items():
            histograms[name].add(value)
            seen[name] = seen.get(name, 0) + count
    return Ranges(
        {name: _range(h) for name, h in histograms.items() if h.count or not h.finite}, max(seen.values(), default=0)
    )


def observed(
    model: Any,
    names: Sequence[str],
    data: Batches,
    *,
    rows: int,
    samples: int,
    seed: int,
    progress: Progress | None = None,
) -> Iterator[tuple[int, Arrays]]:
    """Tensors of a model as it runs over calibration data: (rows, values by name), each tensor once for every batch.

    Args:
        model: with inferred shapes; not changed.
        names: float tensors, inputs of the graph too.
        data: rows named as the model's inputs.
        rows: of one run.
        samples: use about so many rows, as `calibrate` does.
        seed: where their spread begins.
        progress: called with (batches done, batches in all).

    Raises:
        InputError: no data, or the model fails on it.
    """
    chosen = _chosen_batches(data, rows, samples, seed)
    first = next(_stream(data, rows, chosen[:1]), None)
    if first is None:
        raise InputError("the calibration data holds no samples: give at least one, better a few hundred")
    fed = [n for n in dict.fromkeys(names) if n in first]
    groups = _groups(model, [n for n in dict.fromkeys(names) if n not in first], first)
    total, done = max(1, len(groups)) * len(chosen), 0
    for group in groups:
        session = _session(_with_outputs(model, group), f"tensors {group[0]!r} and after")
        for feeds in _stream(data, rows, chosen):
            yield _rows(feeds), dict(zip(group, _run(session, group, feeds), strict=True))
            done += 1
            if progress is not None:
                progress(done, total)
        del session
    for feeds in _stream(data, rows, chosen) if fed else ():
        yield _rows(feeds), {name: feeds[name] for name in fed}


def activations(model: Any) -> tuple[str, ...]:
    """Float32 tensors that a static step may quantize: around every node that it could choose, in order.

    Args:
        model: with inferred shapes.
    """
    step = QuantizeStep()
    computing = computing_nodes(model, step)
    around = {n for node in (*computing, *passing_nodes(model, computing, step)) for n in (*node.input, *node.output)}
    types = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.output)}
    made = dict.fromkeys(n for node in model.graph.node for n in node.output)
    return tuple(n for n in made if n in around and types.get(n) == TensorProto.FLOAT)


def _range(histogram: Histogram) -> TensorRange:
    if not histogram.count:
        return TensorRange(0.0, 0.0, (0.0, 0.0), finite=False)
    return TensorRange(histogram.low, histogram.high, histogram.least_error(), histogram.finite)


def _chosen_batches(data: Batches, rows: int, samples: int, seed: int) -> tuple[int, ...]:
    """Numbers of the batches to use: all, or evenly spaced ones from a start that the seed gives.

    A last batch of fewer rows is left out where there are others: a model with a fixed batch would refuse it.
    """
    rows = max(1, rows)
    whole = data.samples // rows or math.ceil(data.samples / rows)
    wanted = min(whole, math.ceil(max(1, samples) / rows))
    start = int(np.random.default_rng(seed).integers(0, max(1, whole // max(1, wanted))))
    return tuple(dict.fromkeys(min(whole - 1, start + i * whole // wanted) for i in range(wanted))) if whole else ()


def _rows(feeds: Arrays) -> int:
    return len(next(iter(feeds.values())))


def _stream(data: Batches, rows: int, chosen: Sequence[int]) -> Iterator[Arrays]:
    wanted, last = set(chosen), max(chosen, default=-1)
    for index, feeds in enumerate(data.batches(max(1, rows))):
        if index > last:
            return
        if index in wanted:
            yield feeds


def _groups(model: Any, names: Sequence[str], feeds: Arrays) -> list[list[str]]:
    """Cut the tensors so that one batch of a group stays in bounds; a tensor larger than that is alone."""
    sizes = _sizes(model, names, feeds)
    groups: list[list[str]] = []
    room = 0
    for name in names:
        if not groups or sizes[name] > room or len(groups[-1]) >= GROUP_TENSORS:
            groups.append([])
            room = GROUP_BYTES
        groups[-1].append(name)
        room -= sizes[name]
    return groups


def _sizes(model: Any, names: Sequence[str], feeds: Arrays) -> dict[str, int]:
    """Bytes of each tensor for one batch, by a model that answers shapes only."""
    if not names:
        return {}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    taken = {n for node in model.graph.node for n in (*node.input, *node.output)}
    answers = []
    for i, name in enumerate(names):
        answer = f"calibration_shape_{i}"
        while answer in taken:
            answer += "_"
        answers.append(answer)
        probe.graph.node.append(helper.make_node("Shape", [name], [answer]))
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_tensor_value_info(a, TensorProto.INT64, [None]) for a in answers)
    shapes = _run(_session(probe, "shapes"), answers, feeds)
    return {n: 4 * math.prod(int(d) for d in s) for n, s in zip(names, shapes, strict=True)}


def _with_outputs(model: Any, names: Sequence[str]) -> Any:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.output[:]
    made.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names)
    return made


def _float_inputs(model: Any) -> list[str]:
    constants = {t.name for t in model.graph.initializer}
    inputs = (i for i in model.graph.input if i.name not in constants)
    return [i.name for i in inputs if i.type.tensor_type.elem_type == TensorProto.FLOAT]


def _load(path: Path) -> Any:
    try:
        return read_saved(path)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path.name} cannot be read as ONNX: {error}") from None


def _session(model: Any, what: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Arenas keep the peak of every batch; here memory matters more than speed.
    options.enable_cpu_mem_arena = False
    try:
        return session_of(model, options)
    except Exception as error:
        text = str(error).strip().splitlines()[-1][:300]
        raise InputError(f"calibration cannot make outputs of {what}: {text}") from None


def _run(session: Any, names: Sequence[str], feeds: Arrays) -> list[Any]:
    try:
        return list(session.run(list(names), feeds))
    except Exception as error:
        text = str(error).strip().splitlines()[-1][:300]
        raise InputError(f"the model fails on the calibration data: {text}") from None

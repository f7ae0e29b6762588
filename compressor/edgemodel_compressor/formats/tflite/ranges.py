"""Ranges of activations: the float TFLite file is run on calibration rows, and every tensor goes into a histogram."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted
from edgemodel_compressor.evaluate.runner import Arrays
from edgemodel_compressor.steps.histogram import Histogram

from .graph import Free, Graph
from .run import interpreter
from .schema import SIGNATURE

#: Rows that are looked at; evenly spaced ones of more.
MAX_ROWS = 128
#: Rows of one run, where the batch is free and they fit.
ROWS = 8
ROW_BYTES = 8 * 2**20
#: Tensors whose histograms are kept at a time: 32 KiB each.
GROUP = 4096
Range = tuple[float, float]


def calibrate(graph: Graph, content: bytes, rows: Arrays, *, wanted: Collection[int]) -> Mapping[int, Range]:
    """Range of the least squared error for 8-bit numbers, with 0 in it, by the id of each float activation.

    Tensors with values that are not finite are left out.

    Args:
        graph: that `content` was made of, unchanged since.
        content: the float file.
        rows: named as the inputs, first axis = rows.
        wanted: ids of the tensors.

    Raises:
        InputError: an input is missing, or the rows are fewer than a fixed batch.
    """
    missing = [n for n in graph.inputs if n not in rows]
    if missing:
        raise InputError(f"calibration: the input {missing[0]!r} is missing: give all of {', '.join(graph.inputs)}")
    batch = min(_batch(graph), max(1, min(len(rows[n]) for n in graph.inputs))) if _free(graph) else _batch(graph)
    total = min(len(rows[n]) for n in graph.inputs)
    if total < batch:
        raise InputError(f"calibration: {counted(total, 'row')}, and the model takes {batch} at a time: give more")
    starts = np.unique(np.linspace(0, total - batch, min(max(1, MAX_ROWS // batch), total // batch)).astype(int))
    places = [(i, t) for i, t in enumerate(graph.tensors()) if id(t) in wanted]
    found: dict[int, Range] = {}
    for first in range(0, len(places), GROUP):
        group = places[first : first + GROUP]
        histograms = {i: Histogram() for i, _ in group}
        ran = interpreter(content, delegates=False, keep_all=True)
        runner = ran.get_signature_runner(SIGNATURE)
        kinds = {n: d["dtype"] for n, d in runner.get_input_details().items()}
        for start in starts.tolist():
            feeds = {n: np.ascontiguousarray(rows[n][start : start + batch].astype(kinds[n])) for n in graph.inputs}
            try:
                runner(**feeds)
            except (ValueError, RuntimeError) as error:
                raise InputError(f"calibration: the model fails on the data: {error}") from None
            for i, _ in group:
                histograms[i].add(ran.get_tensor(i))
        for i, tensor in group:
            if histograms[i].finite and histograms[i].count:
                found[id(tensor)] = histograms[i].least_error()
    return found


def _free(graph: Graph) -> bool:
    return all(t.shape and isinstance(t.shape[0], Free) for t in graph.inputs.values())


def _batch(graph: Graph) -> int:
    """Rows of one run: the model's, or some where it takes any."""
    shapes = [t.shape for t in graph.inputs.values()]
    fixed = [int(s[0]) for s in shapes if s and not isinstance(s[0], Free)]
    if fixed:
        return max(fixed)
    largest = max((4 * int(np.prod(t.shape)) for t in graph.tensors() if t.data is None), default=1)
    return int(np.clip(ROW_BYTES // max(1, largest), 1, ROWS))

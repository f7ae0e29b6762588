"""Ranges of activations: the float TFLite file is run on calibration rows, and every tensor goes into a histogram."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgemodel_api.errors import InputError
from edgemodel_compressor.evaluate.runner import Arrays
from edgemodel_compressor.steps.histogram import Histogram

from .graph import Graph
from .run import interpreter
from .schema import SIGNATURE

#: Rows that are looked at; evenly spaced ones of more.
MAX_ROWS = 256
#: Tensors whose histograms are kept at a time: 32 KiB each.
GROUP = 4096
Range = tuple[float, float]


def calibrate(graph: Graph, content: bytes, rows: Arrays) -> Mapping[int, Range]:
    """Range of the least squared error for 8-bit numbers, with 0 in it, by the id of each float activation.

    Tensors with values that are not finite are left out.

    Args:
        graph: that `content` was made of, unchanged since.
        content: the float file.
        rows: named as the inputs, first axis = rows.

    Raises:
        InputError: an input is missing, or the rows are fewer than a fixed batch.
    """
    missing = [n for n in graph.inputs if n not in rows]
    if missing:
        raise InputError(f"calibration: the input {missing[0]!r} is missing: give all of {', '.join(graph.inputs)}")
    batch = _batch(graph)
    total = min(len(rows[n]) for n in graph.inputs)
    if total < batch:
        raise InputError(f"calibration: {total} rows, and the model takes {batch} at a time: give more")
    starts = np.unique(np.linspace(0, total - batch, min(max(1, MAX_ROWS // batch), total // batch)).astype(int))
    wanted = [(i, t) for i, t in enumerate(graph.tensors()) if t.data is None and t.dtype == np.float32]
    found: dict[int, Range] = {}
    for first in range(0, len(wanted), GROUP):
        group = wanted[first : first + GROUP]
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


def _batch(graph: Graph) -> int:
    from .graph import Free

    shapes = [t.shape for t in graph.inputs.values()]
    return max((int(s[0]) for s in shapes if s and not isinstance(s[0], Free)), default=1)

"""Sensitivity: how much the answers change when one node alone is quantized.

One session answers for all nodes. Each weight becomes an input whose default is the float weight, so a run may be fed
another one; each activation of a node goes through `Where(flag, DequantizeLinear(QuantizeLinear(x)), x)` with a flag
per node. A run then quantizes exactly one node: its flag is set and its weights are fed as their stored form decodes.
The number for a node is ‖y − y'‖₂ / ‖y‖₂ over all float outputs and a few batches; for a report also the drop of the
quality metric, which takes more samples. Nodes take turns on as many threads as there are: a run itself has one, so the
numbers are the same on any of them.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgemodel_api.errors import InputError
from edgemodel_compressor.evaluate.quality import Evaluator
from edgemodel_compressor.evaluate.runner import Arrays, Batches, in_lanes
from edgemodel_compressor.formats.lean import session_of

from .calibrate import Ranges, TensorRange
from .encodings import Encoding, Number
from .graph import copy_of, fresh, names_in, opset
from .prepare import upgrade_opset
from .weight_only import encode
from .weights import Weight, channels, from_channels, weights

#: Of `sensitivity`: batches a node, and rows for all nodes together, where one batch each is not more.
BATCHES = 2
ROWS = 256
#: Of `quality_drops`: samples a node (most, least), samples for all nodes together, and seconds for all of them.
SAMPLES, LEAST_SAMPLES, ALL_SAMPLES = 64, 16, 512
SECONDS = 30.0
#: QuantizeLinear is from opset 10, Where from 9.
_LEAST_OPSET = 10
Progress = Callable[[int, int], None]


def sensitivity(
    model: Any,
    nodes: Iterable[str],
    *,
    data: Batches,
    rows: int,
    ranges: Ranges | None,
    encoding: Encoding,
    batches: int = BATCHES,
    threads: int = 1,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Relative output error of each node, smallest first; equal ones in the order of the names.

    Args:
        model: the prepared float model.
        nodes: names, as `quantizable` gives them.
        data: validation or calibration rows.
        rows: of one run.
        ranges: of activations; None, or an encoding of weights only: only weights are quantized.
        encoding: how the weights and activations would be stored.
        batches: how many runs a node at most; fewer where there are many nodes.
        threads: so many nodes at a time; the numbers are the same.
        progress: called with (nodes done, nodes in all).

    Raises:
        InputError: no data, or the model fails on it. A node whose error cannot be computed (the outputs are integers
            only, or NaN; its weights lie in a subgraph) counts as infinitely sensitive.
    """
    switches = _Switches.of(model, nodes, ranges, encoding)
    names = switches.names
    feeds = _few(data, rows, max(1, min(batches, ROWS // max(1, len(names) * rows))))
    outputs = [
        o.name
        for o in switches.session.get_outputs()
        if o.type in ("tensor(float)", "tensor(float16)", "tensor(double)")
    ]
    truths = [_run(switches.session, outputs, {**f, **switches.off}) for f in feeds] if outputs else []
    scale = sum(_square(t) for truth in truths for t in truth)

    def error_of(name: str) -> float:
        if not switches.knows(name):
            return math.inf
        on = switches.on(name)
        error = 0.0
        for f, truth in zip(feeds, truths, strict=False):
            answers = _run(switches.session, outputs, {**f, **on})
            error += sum(_square(a.astype(np.float64) - t) for a, t in zip(answers, truth, strict=True))
        return math.sqrt(error / scale) if truths and scale > 0 and math.isfinite(error) else math.inf

    errors: dict[str, float] = {}
    for name, error in zip(names, in_lanes(error_of, names, threads), strict=True):
        errors[name] = error
        if progress is not None:
            progress(len(errors), len(names))
    # Twelve digits: the order must not hang on the last bit of a sum.
    return dict(sorted(errors.items(), key=lambda e: (float(f"{e[1]:.12g}"), e[0])))


def quality_drops(
    model: Any,
    nodes: Iterable[str],
    *,
    evaluator: Evaluator,
    ranges: Ranges | None,
    encoding: Encoding,
    samples: int | None = None,
    seconds: float = SECONDS,
    threads: int = 1,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, float]:
    """Quality drop when one node alone is quantized, in the order of the nodes; for a report, as far as time allows.

    Args:
        model: the prepared float model.
        nodes: names, the most telling first: those that time does not allow are left out.
        evaluator: has judged the source.
        ranges: of activations, as for `sensitivity`.
        encoding: how the weights and activations would be stored.
        samples: about how many, those on which the source is least sure; the others count as unchanged. None: fewer,
            the more nodes there are.
        seconds: stop after so many.
        threads: so many nodes at a time; the numbers are the same.
        progress: called with (nodes done, nodes in all).
        clock: seconds, monotonic.

    Returns:
        Node name → drop relative to the source's quality, a fraction. Nodes whose answers cannot be judged (NaN), or whose
        weights lie in a subgraph, are left out, too.
    """
    begun = clock()
    switches = _Switches.of(model, nodes, ranges, encoding)
    share = ALL_SAMPLES // max(1, len(switches.names))
    chosen = evaluator.screen(samples or max(LEAST_SAMPLES, min(SAMPLES, share)))
    outputs = [o.name for o in switches.session.get_outputs()]

    def drop_of(name: str) -> float | None:
        if not switches.knows(name):
            return None
        on = switches.on(name)

        def run(feeds: Arrays) -> Arrays:
            return dict(zip(outputs, _run(switches.session, outputs, {**feeds, **on}), strict=True))

        with contextlib.suppress(InputError):
            return float(evaluator.quality(evaluator.judge_rows(run, chosen), chosen).drop)
        return None

    drops: dict[str, float] = {}
    with contextlib.closing(in_lanes(drop_of, switches.names, threads)) as found:
        for index, name in enumerate(switches.names):
            if clock() - begun > seconds:
                break
            if (drop := next(found)) is not None:
                drops[name] = drop
            if progress is not None:
                progress(index + 1, len(switches.names))
    return drops


@dataclass(frozen=True)
class _Switches:
    """The instrumented model.

    Attributes:
        session: it.
        names: nodes, each once.
        weights: of each node.
        flags: input that quantizes a node's activations.
        off: feeds that quantize nothing.
        encoding: of the weights.
    """

    session: Any
    names: tuple[str, ...]
    weights: dict[str, list[Weight]]
    flags: dict[str, str]
    off: Arrays
    encoding: Encoding

    @classmethod
    def of(cls, model: Any, nodes: Iterable[str], ranges: Ranges | None, encoding: Encoding) -> _Switches:
        """Build it. Raises InputError where the model cannot be instrumented."""
        names = list(dict.fromkeys(nodes))
        found = _by_node(model, names)
        use_ranges = ranges is not None and not encoding.weights_only and not encoding.dynamic
        instrumented, flags = _instrument(model, names, ranges if use_ranges else None, encoding)
        _weights_as_inputs(instrumented, {w.name for ws in found.values() for w in ws})
        off: Arrays = {flag: np.asarray(False) for flag in flags.values()}
        return cls(_session(instrumented), tuple(names), found, flags, off, encoding)

    def knows(self, name: str) -> bool:
        """Whether anything of the node can be quantized here: what lies in a subgraph cannot be fed."""
        return bool(self.weights[name]) or name in self.flags

    def on(self, name: str) -> Arrays:
        """Feeds that quantize one node."""
        feeds = {**self.off, **{w.name: _decoded(w, self.encoding) for w in self.weights[name]}}
        if name in self.flags:
            feeds[self.flags[name]] = np.asarray(True)
        return feeds


def _few(data: Batches, rows: int, batches: int) -> list[Arrays]:
    found: list[Arrays] = []
    for feeds in data.batches(max(1, rows)):
        if found and len(next(iter(feeds.values()))) < rows:
            break
        found.append(feeds)
        if len(found) >= batches:
            break
    if not found:
        raise InputError("the data holds no samples: give at least one, better a few hundred")
    return found


def _by_node(model: Any, names: list[str]) -> dict[str, list[Weight]]:
    """Weights of the outer graph by reader."""
    found: dict[str, list[Weight]] = {name: [] for name in names}
    for weight in weights(model):
        if weight.graph is model.graph or weight.graph == model.graph:
            for node in dict.fromkeys(u.node for u in weight.uses):
                if node in found:
                    found[node].append(weight)
    return found


def _decoded(weight: Weight, encoding: Encoding) -> npt.NDArray[Any]:
    """The weight as it comes back from its stored form."""
    values = weight.values()
    if encoding.weights_only:
        stored = encode(values, weight.channel_axes, encoding)
        return values if stored is None else stored.values(values.dtype)
    axes = weight.channel_axes if encoding.per_channel else ()
    rows = channels(values.astype(np.float64), axes)
    low, high = np.minimum(rows.min(axis=1, initial=0.0), 0), np.maximum(rows.max(axis=1, initial=0.0), 0)
    if encoding.weight is Number.UINT8:
        step = np.where(high > low, (high - low) / 255, 1.0)
        zero = np.rint(-low / step)
        numbers = np.clip(np.rint(rows / step[:, None]) + zero[:, None], 0, 255) - zero[:, None]
    else:
        limit = 64 if encoding.reduce_range else 127
        step = np.where(high > low, np.maximum(-low, high) / limit, 1.0)
        numbers = np.clip(np.rint(rows / step[:, None]), -limit, limit)
    return np.ascontiguousarray(from_channels(numbers * step[:, None], values.shape, axes), dtype=values.dtype)


def _instrument(model: Any, names: list[str], ranges: Ranges | None, encoding: Encoding) -> tuple[Any, dict[str, str]]:
    """A copy with a switch on each activation of the nodes, and the flag of each node."""
    made = copy_of(model)
    if ranges is None:
        return made, {}
    if opset(made) < _LEAST_OPSET:
        raised = upgrade_opset(made, _LEAST_OPSET)
        if raised is None:
            return made, {}
        made = raised
    graph = made.graph
    taken = names_in(graph)
    flags: dict[str, str] = {}
    pairs: dict[str, str] = {}
    known = {n: r for n, r in ranges.tensors.items() if r.finite}
    added: list[Any] = []

    def pair(tensor: str, seen: TensorRange) -> str:
        if tensor not in pairs:
            scale, zero = _parameters(seen, encoding)
            s, z, q, d = (fresh(f"{tensor}/{part}", taken) for part in ("scale", "zero", "small", "back"))
            graph.initializer.append(numpy_helper.from_array(scale, s))
            graph.initializer.append(numpy_helper.from_array(zero, z))
            added.append(helper.make_node("QuantizeLinear", [tensor, s, z], [q]))
            added.append(helper.make_node("DequantizeLinear", [q, s, z], [d]))
            pairs[tensor] = d
        return pairs[tensor]

    for node in (copy_of(n) for n in graph.node):
        if node.name not in names:
            added.append(node)
            continue
        flag = fresh(f"{node.name}/flag", taken)
        for index, tensor in enumerate(node.input[:2]):
            if tensor in known:
                small, chosen = pair(tensor, known[tensor]), fresh(f"{node.name}/input_{index}", taken)
                added.append(helper.make_node("Where", [flag, small, tensor], [chosen]))
                node.input[index] = chosen
                flags[node.name] = flag
        added.append(node)
        answer = node.output[0]
        # MatMul and Gemm alone answer floats; their rounded answer is the next node's input.
        if answer in known and node.op_type not in ("MatMul", "Gemm"):
            node.output[0] = fresh(f"{answer}/float", taken)
            small = pair(node.output[0], known[answer])
            added.append(helper.make_node("Where", [flag, small, node.output[0]], [answer]))
            flags[node.name] = flag
    graph.input.extend(helper.make_tensor_value_info(f, TensorProto.BOOL, []) for f in flags.values())
    del graph.node[:]
    graph.node.extend(added)
    return made, flags


def _parameters(seen: TensorRange, encoding: Encoding) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Scale and zero point of an activation."""
    low, high = min(seen.clipped[0], 0.0), max(seen.clipped[1], 0.0)
    step = (high - low) / 255 or 1.0
    zero = round(-low / step)
    small = np.asarray(zero - 128, np.int8) if encoding.activation is Number.INT8 else np.asarray(zero, np.uint8)
    return np.asarray(step, dtype=np.float32), small


def _weights_as_inputs(model: Any, names: set[str]) -> None:
    """Defaults that a run may replace (ONNX IR ≥ 4: an initializer of the same name as an input)."""
    for tensor in model.graph.initializer:
        if tensor.name in names:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))


def _session(model: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # The pairs are here to round, not to be fused.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        return session_of(model, options)
    except Exception as error:
        text = str(error).strip().splitlines()[-1][:300]
        raise InputError(f"sensitivity cannot be measured on this model: {text}; name nodes in include") from None


def _run(session: Any, names: list[str], feeds: Arrays) -> list[npt.NDArray[Any]]:
    try:
        return [np.asarray(a) for a in session.run(names, feeds)]
    except Exception as error:
        text = str(error).strip().splitlines()[-1][:300]
        raise InputError(f"the model fails on the data: {text}") from None


def _square(array: npt.NDArray[Any]) -> float:
    return float((array.astype(np.float64) ** 2).sum())

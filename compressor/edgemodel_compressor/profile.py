"""Milliseconds of each layer, by onnxruntime's own profiler.

The optimizer renames and joins nodes: `conv1` becomes `conv1_nchwc`, a Conv and its Relu one kernel with the Relu's name,
a quantized MatMul takes the nodes around it in. So a kernel's time is booked to the node whose name (or whose output's
name) its own name begins with, and a multiplying kernel's to the multiplying node before that; what the optimizer adds
by itself (reordering, conversions between kernels) is nobody's. Hence the sum is below the model's
latency, and a layer's time in a quantized model holds no QuantizeLinear in front of it.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import onnx
import onnxruntime

from edgemodel_api.errors import InputError

from .evaluate.runner import Arrays

WARM_UP = 2
LEAST_RUNS = 5
MOST_RUNS = 200
_KERNEL = "_kernel_time"
#: What may follow a node's name in the name of a kernel made of it.
_MULTIPLIES = re.compile(r"Conv|MatMul|Gemm|Attention|LSTM|GRU|RNN")
_DYNAMIC = frozenset({"MatMulInteger", "QAttention", "DynamicQuantizeLSTM"})
#: So many nodes a kernel takes in behind a multiplication, at most: quantize, dequantize, add, activation.
_JOINED = 6
_BORDER = re.compile(r"[_/:.\s]")


def layer_seconds(
    path: Path, feeds: Sequence[Arrays], *, seconds: float = 1.0, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Seconds that one inference spends in each node, one thread, median over the runs.

    Args:
        path: an ONNX file; its nodes have names.
        feeds: single requests, taken in turn.
        seconds: stop after so much, but not before five runs (or four times as much).
        clock: seconds, monotonic.

    Returns:
        Node name → seconds, for nodes of the outer graph that have a kernel of their own; empty without feeds.

    Raises:
        InputError: the model fails on the feeds.
    """
    if not feeds:
        return {}
    model = onnx.load(str(path), load_external_data=False)
    find = finder(model.graph)
    by_node: dict[str, list[float]] = defaultdict(list)
    for (kernel, op), durations in _durations(path, feeds, seconds, clock).items():
        node = find(kernel, op)
        if node is not None:
            by_node[node].append(median(durations))
    return {node: sum(parts) for node, parts in sorted(by_node.items())}


def finder(graph: Any) -> Callable[[str, str], str | None]:
    """(Kernel's name, its operator) → node's name, or None where it is nobody's.

    The longest name wins: `conv1_b` is not `conv1`'s. Names of the graph come before what the optimizer makes of them.
    """
    made: dict[str, Any] = {o: n for n in graph.node for o in n.output if o and n.name}
    owners = {**made, **{n.name: n for n in graph.node if n.name}}
    ordered = sorted(owners, key=len, reverse=True)

    def find(kernel: str, op: str = "") -> str | None:
        plain = kernel.removeprefix("fused ")
        name = kernel if kernel in owners else next((n for n in ordered if _is_of(plain, n)), None)
        if name is None:
            return None
        node = owners[name]
        if _MULTIPLIES.search(op):
            node = _multiplying(node, made)
        # As the dynamic quantizer calls what it makes of a node.
        return str(node.name).removesuffix("_quant") if node.op_type in _DYNAMIC else str(node.name)

    return find


def _multiplying(node: Any, made: dict[str, Any]) -> Any:
    """The node itself, or the one before it that a kernel took in with it."""
    found = node
    for _ in range(_JOINED):
        if _MULTIPLIES.search(found.op_type):
            return found
        before = next((made[i] for i in found.input if i in made), None)
        if before is None:
            break
        found = before
    return node


def _is_of(kernel: str, name: str) -> bool:
    return kernel.startswith(name) and (len(kernel) == len(name) or _BORDER.match(kernel[len(name)]) is not None)


def _durations(
    path: Path, feeds: Sequence[Arrays], seconds: float, clock: Callable[[], float]
) -> dict[tuple[str, str], list[float]]:
    """(Kernel's name, its operator) → seconds in each run."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory(prefix="edgemodel-profile-") as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            runs = _runs(session, feeds, seconds, clock)
            events = _events(Path(session.end_profiling()))
        except (OSError, ValueError) as error:
            raise InputError(f"the profile of {path.name} cannot be written or read: {error}") from None
        except Exception as error:  # onnxruntime raises many types of its own
            text = str(error).strip().splitlines()[-1][:300]
            raise InputError(f"{path.name} fails on the data: {text}") from None
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for kernel, micros in events:
        found[kernel].append(micros * 1e-6)
    # The same name in one run several times (bodies of loops): their sum.
    return {kernel: _by_run(values, runs) for kernel, values in found.items()}


def _runs(session: Any, feeds: Sequence[Arrays], seconds: float, clock: Callable[[], float]) -> int:
    begun = clock()
    count = 0
    while True:
        session.run(None, feeds[count % len(feeds)])
        count += 1
        spent = clock() - begun
        enough = count >= WARM_UP + LEAST_RUNS and spent >= seconds
        if enough or count >= WARM_UP + MOST_RUNS or (count > WARM_UP and spent >= 4 * seconds):
            return count


def _events(path: Path) -> Iterable[tuple[tuple[str, str], float]]:
    """Kernels (name, operator) in the order in which they ran, and microseconds."""
    return [
        ((str(e["name"]).removesuffix(_KERNEL), str(e.get("args", {}).get("op_name", ""))), float(e["dur"]))
        for e in json.loads(path.read_bytes())
        if e.get("cat") == "Node" and str(e.get("name", "")).endswith(_KERNEL)
    ]


def _by_run(values: list[float], runs: int) -> list[float]:
    """Sums for each run; the first ones, which warm up, are left out."""
    if len(values) % runs:
        return [sum(values) / runs]
    each = len(values) // runs
    sums = [sum(values[i * each : (i + 1) * each]) for i in range(runs)]
    return sums[WARM_UP:] or sums

"""Milliseconds of each layer, by onnxruntime's own profiler.

The optimizer renames and joins nodes: `conv1` becomes `conv1_nchwc` or `fused conv1`, a quantized MatMul takes the nodes
around it in. So a kernel's time is booked to the node whose name (or whose output's name) its own name contains; what
the optimizer adds by itself (reordering, conversions between kernels) is nobody's. Hence the sum is below the model's
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
    for kernel, durations in _durations(path, feeds, seconds, clock).items():
        node = find(kernel)
        if node is not None:
            by_node[node].append(median(durations))
    return {node: sum(parts) for node, parts in sorted(by_node.items())}


def finder(graph: Any) -> Callable[[str], str | None]:
    """Kernel's name → node's name, or None where it is nobody's.

    The longest name wins: `conv1_b` is not `conv1`'s. Names of the graph come before what the optimizer makes of them.
    """
    owners: dict[str, str] = {o: n.name for n in graph.node for o in n.output if o and n.name}
    owners |= {n.name: n.name for n in graph.node if n.name}
    ordered = sorted(owners, key=len, reverse=True)

    def find(kernel: str) -> str | None:
        if kernel in owners:
            return owners[kernel]
        plain = kernel.removeprefix("fused ")
        return next((owners[n] for n in ordered if _is_of(plain, n)), None)

    return find


def _is_of(kernel: str, name: str) -> bool:
    return kernel.startswith(name) and (len(kernel) == len(name) or _BORDER.match(kernel[len(name)]) is not None)


def _durations(
    path: Path, feeds: Sequence[Arrays], seconds: float, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Kernel's name → seconds in each run."""
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
    found: dict[str, list[float]] = defaultdict(list)
    for name, micros in events:
        found[name].append(micros * 1e-6)
    # The same name in one run several times (bodies of loops): their sum.
    return {name: _by_run(values, runs) for name, values in found.items()}


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


def _events(path: Path) -> Iterable[tuple[str, float]]:
    """Kernels in the order in which they ran, and microseconds."""
    return [
        (str(e["name"]).removesuffix(_KERNEL), float(e["dur"]))
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

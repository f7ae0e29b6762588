"""Large models as a server opens them: in a process of its own, one after the other, and only where that fits.

A server lets onnxruntime compute what it can when it loads a model. Weights that are stored small become float again
then; measured on a stack of transformer blocks (onnxruntime 1.32), the peak over the float32 weights is 1.0 for float32
(each weight's packed copy replaces its pages), 1.1 for float16 in the file and 2.4 for int8 and int4 (folded, copied
and packed). Beyond `BOUND` times the float weights nothing is measured, so that a Job's memory can be told beforehand:
the trial on each kind of node decides.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import format_bytes
from edgemodel_oci.companion import companion

Floats = npt.NDArray[np.float64]

#: Peak of a Job over the float weights of its source.
BOUND = 1.5
#: What Python and the runtime take by themselves.
CHILD_BYTES = 80 * 2**20
_FACTOR_FLOAT, _FACTOR_HALF, _FACTOR_SMALL = 1.05, 1.15, 2.5
_SMALL_TYPES = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4)
_TIMEOUT_SECONDS = 900.0


class NotMeasuredError(InputError):
    """Measuring it as served would take more memory than there may be: no verdict on the model."""


@dataclass(frozen=True)
class Served:
    """What a process that serves a model took.

    Attributes:
        peak_bytes: of its resident memory.
        seconds: of each run, after a warm-up.
    """

    peak_bytes: int
    seconds: Floats


def is_large(path: Path) -> bool:
    """Whether a file is one of a large model (with external data of ours)."""
    try:
        return companion(path) is not None
    except OSError:
        return False


def needed(path: Path) -> tuple[int, int]:
    """(bytes that serving a large model takes at its peak, bytes of its weights as floats), both estimates."""
    graph = onnx.load(str(path), load_external_data=False).graph
    read_by: dict[str, str] = {}
    for node in graph.node:
        for name in node.input:
            read_by.setdefault(name, node.op_type)
    floats = peak = 0.0
    for tensor in graph.initializer:
        count = math.prod(tensor.dims)
        size = count * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        if read_by.get(tensor.name) != "Cast":
            # Integer kernels read small numbers as they are.
            floats += size
            peak += size * _FACTOR_FLOAT
        elif tensor.data_type in _SMALL_TYPES:
            floats += 4 * count
            peak += 4 * count * _FACTOR_SMALL
        else:
            floats += 4 * count
            peak += 4 * count * _FACTOR_HALF
    return int(peak) + CHILD_BYTES, int(floats)


def check_fits(path: Path) -> None:
    """Before a large model is served for a measurement.

    Raises:
        NotMeasuredError: it would take more than `BOUND` times its float weights.
    """
    peak, floats = needed(path)
    if peak > BOUND * floats + CHILD_BYTES:
        raise NotMeasuredError(
            f"latency and memory as served were not measured: loading it takes about {format_bytes(peak)}, as its weights become"
            f" {format_bytes(floats)} of floats again; a Job takes at most {BOUND} times these. The trial on each kind of node"
            " measures it",
            reason="NotMeasured",
        )


def serve(
    path: Path, feeds: list[Mapping[str, npt.NDArray[Any]]], *, work_dir: Path, threads: int = 1, seconds: float = 1.0
) -> Served:
    """Load a model as a server does, in a process of its own, and time it.

    Args:
        path: the model.
        feeds: one request each; they are sent in turn.
        work_dir: for a file with the requests.
        threads: as the server would use.
        seconds: of timing, but at least 5 runs.

    Raises:
        NotMeasuredError: a large model that does not fit.
        InputError: the child cannot load or run it.
    """
    if is_large(path):
        check_fits(path)
    with tempfile.TemporaryDirectory(prefix=".serve-", dir=work_dir) as folder:
        request = Path(folder) / "requests.npz"
        names = list(feeds[0])
        arrays: dict[str, Any] = {f"x{k}_{i}": f[n] for k, f in enumerate(feeds) for i, n in enumerate(names)}
        np.savez(request, **arrays)
        arguments = [str(path), str(request), json.dumps(names), str(len(feeds)), str(threads), str(seconds)]
        try:
            child = subprocess.run(
                [sys.executable, "-P", "-c", CHILD, *arguments],
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise InputError(f"the model did not finish in {_TIMEOUT_SECONDS:.0f} s in its own process") from None
    if child.returncode != 0:
        lines = child.stderr.strip().splitlines()
        why = f"signal {-child.returncode}" if child.returncode < 0 else lines[-1][:300] if lines else "no message"
        raise InputError(f"the model cannot run in a process of its own: {why}")
    said = json.loads(child.stdout)
    return Served(int(said["peak"]), np.array(said["seconds"], dtype=np.float64))


#: Imports nothing but what a server needs, so that the numbers are the model's and the runtime's.
CHILD = """
import json, sys, time
import numpy as np
import onnxruntime as ort
model, request, names, count, threads, seconds = sys.argv[1:]
ort.set_default_logger_severity(4)
options = ort.SessionOptions()
options.intra_op_num_threads = int(threads)
options.inter_op_num_threads = 1
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
with np.load(request, allow_pickle=False) as arrays:
    feeds = [{n: arrays[f"x{k}_{i}"] for i, n in enumerate(json.loads(names))} for k in range(int(count))]
session.run(None, feeds[0])
taken = []
end = time.monotonic() + float(seconds)
while len(taken) < 5 or (time.monotonic() < end and len(taken) < 400):
    start = time.perf_counter()
    session.run(None, feeds[len(taken) % len(feeds)])
    taken.append(time.perf_counter() - start)
with open("/proc/self/status") as status:
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
print(json.dumps({"peak": peak, "seconds": taken}))
"""

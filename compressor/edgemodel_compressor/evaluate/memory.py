"""Peak resident memory of a process that loads and runs a model.

The model runs in a process of its own, as it does on a node; the peak is VmHWM of /proc/self/status, which starts at
exec. (`ru_maxrss` does not: it carries over the peak of the process that forked.)
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgemodel_api.errors import InputError
from edgemodel_compressor.formats.lean import LeanSession
from edgemodel_oci.companion import file_bytes

from .runner import Arrays
from .serving import NotMeasuredError, check_fits, is_large

TIMEOUT_SECONDS = 120.0
RUNS = 5
#: At which a large model is at least read and packed, on a busy machine.
SLOWEST_BYTES_PER_SECOND = 10 * 2**20


def peak_memory(model: Path, feed: Arrays, *, work_dir: Path, threads: int = 1) -> int | None:
    """Bytes; None: a large model, whose serving takes more than a Job may (`serving`).

    Args:
        model: an ONNX file.
        feed: one request.
        work_dir: for a file with the request.
        threads: as the server would use.

    Raises:
        InputError: the child cannot load or run the model (it ran out of memory, or it crashed), or takes longer
            than two minutes (a large model: more).
    """
    if is_large(model):
        LeanSession.close_all()
        try:
            check_fits(model)
        except NotMeasuredError:
            return None
    timeout = TIMEOUT_SECONDS + file_bytes(model) / SLOWEST_BYTES_PER_SECOND
    request = work_dir / "memory-feed.npz"
    arrays: dict[str, Any] = {f"x{i}": value for i, value in enumerate(feed.values())}
    np.savez(request, **arrays)
    names = json.dumps(list(feed))
    try:
        child = subprocess.run(
            [sys.executable, "-c", CHILD, str(model), str(request), names, str(threads), str(RUNS)],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"the model did not finish {RUNS} runs in {timeout:.0f} s in its own process") from None
    finally:
        request.unlink(missing_ok=True)
    if child.returncode != 0:
        raise InputError(f"the model cannot run in a process of its own: {_ending(child.returncode, child.stderr)}")
    return int(child.stdout)


def _ending(code: int, errors: str) -> str:
    """Why a child ended: its signal, or the last line that it wrote."""
    if code < 0:
        hint = "; is there enough memory?" if code == -signal.SIGKILL else ""
        return f"it was killed by {signal.Signals(-code).name}{hint}"
    lines = errors.strip().splitlines()
    return f"exit code {code}, {lines[-1][:300] if lines else 'no message'}"


#: Imports nothing but what a server needs, so that the number is the model's and the runtime's.
CHILD = """
import json, resource, sys
import numpy as np
import onnxruntime as ort
model, request, names, threads, runs = sys.argv[1:]
ort.set_default_logger_severity(4)
options = ort.SessionOptions()
options.intra_op_num_threads = int(threads)
options.inter_op_num_threads = 1
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
with np.load(request, allow_pickle=False) as arrays:
    feed = {name: arrays[f"x{i}"] for i, name in enumerate(json.loads(names))}
for _ in range(int(runs)):
    session.run(None, feed)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
try:
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
except (OSError, StopIteration):
    pass
print(peak)
"""

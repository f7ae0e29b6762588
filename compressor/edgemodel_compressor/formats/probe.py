"""The first load and run of a model, in a child process with limits: a crash, a hog or a hang becomes a message.

Some models cannot be judged by reading: a ConstantOfShape makes terabytes of two numbers, a Loop may never end, and the
native code of checker and runtime may have bugs that a file can reach. The child has a limit on its address space and
on its time; what it does before it dies, it says on its standard output.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import format_bytes
from edgemodel_compressor.data import TensorSpec, synthetic
from edgemodel_compressor.evaluate import bad_index
from edgemodel_compressor.evaluate.runner import Arrays
from edgemodel_oci.files import writing

from .child_process import MEMORY, ending, run_child
from .onnx_model import runtime_message

DOING = {
    "start": "starting the runtime",
    "check": "checking it",
    "infer": "inferring its shapes",
    "load": "loading it",
    "run": "its first run",
}


@dataclass(frozen=True)
class Probed:
    """What the child saw.

    Attributes:
        load_seconds: session creation.
        run_seconds: the first inference.
        outputs: name → shape, of that inference; empty where made-up inputs did not suit.
        note: what it could not find out, or what `onnx.checker` complained of though the model runs.
    """

    load_seconds: float
    run_seconds: float
    outputs: dict[str, tuple[int, ...]]
    note: str | None = None


def probe(
    path: Path,
    inputs: tuple[TensorSpec, ...],
    *,
    work_dir: Path,
    memory_bytes: int,
    timeout: float,
    feeds: Arrays | None = None,
) -> Probed:
    """Check, load and run once, in a child.

    Args:
        path: a model that `load_model` has passed, or one of ours.
        inputs: of the model.
        work_dir: for the request.
        memory_bytes: that the child may allocate beyond what Python and the runtime take by themselves.
        timeout: seconds for all of it.
        feeds: one request; None: made-up numbers, whose failure is no verdict where dimensions are free.

    Raises:
        InputError: the model is invalid, crashes, or takes more memory or time than it may.
    """
    request = feeds if feeds is not None else synthetic(inputs, samples=1, seed=0).take(2**31, 0)
    size = sum(a.nbytes for a in request.values())
    if size > memory_bytes:
        raise InputError(
            f"one request of {path.name} takes {format_bytes(size)}, more than the {format_bytes(memory_bytes)} that"
            " its first run may take: use smaller inputs"
        )
    with _request_file(request, work_dir) as file:
        arguments = [str(path), str(file), json.dumps(list(request)), str(memory_bytes), str(math.ceil(timeout))]
        said, code = run_child(CHILD, arguments, timeout)
    last: dict[str, Any] = said[-1] if said else {}
    stage = str(last.get("stage", "start"))
    doing = DOING.get(stage, stage)
    if code is None:
        raise InputError(
            f"{path.name}: {doing} did not end within {timeout:.0f} s: look for loops that never end, or give a smaller"
            " model"
        )
    if last.get("done"):
        shapes = {name: tuple(shape) for name, shape in last["outputs"].items()}
        return Probed(last["load_seconds"], last["run_seconds"], shapes, last.get("note"))
    text = str(last.get("error", ""))
    if MEMORY.search(text) or code == -signal.SIGKILL:
        raise InputError(
            f"{path.name}: {doing} takes more than {format_bytes(memory_bytes)} of memory ({runtime_message(text)}):"
            " look for constants or shapes of gigantic size (ConstantOfShape, Expand, Tile, Resize), or give a smaller"
            " model"
        )
    if "error" not in last:
        raise InputError(
            f"{path.name}: the runtime crashed ({ending(code)}) while it did this: {doing}. The model is damaged or hits a bug; export it"
            " again, with another opset"
        )
    checked = f" ({last['note']})" if "note" in last else ""
    if stage == "run" and feeds is None and any(None in spec.shape[1:] for spec in inputs):
        untried = f"not tried: made-up inputs do not suit the model ({runtime_message(text)})"
        return Probed(float(last.get("load_seconds", 0.0)), 0.0, {}, untried)
    if stage == "run" and (words := bad_index.in_words(text, request)):
        raise InputError(f"{path.name}: {doing} fails: {words}")
    hint = "export the model again, with operators and types that this version has"
    if stage == "run":
        hint = "give data like what the model was trained on" if feeds is not None else "export the model again"
    raise InputError(f"{path.name} is no valid model: {doing} fails: {runtime_message(text)}{checked}: {hint}")


@contextlib.contextmanager
def _request_file(request: Arrays, work_dir: Path) -> Iterator[Path]:
    with writing(work_dir / "request"):
        folder = tempfile.TemporaryDirectory(prefix=".probe-", dir=work_dir)
    with folder as name:
        file = Path(name) / "request.npz"
        arrays: dict[str, Any] = {f"x{i}": value for i, value in enumerate(request.values())}
        with writing(file):
            np.savez(file, **arrays)
        yield file


#: Imports nothing of ours: what the model does to this process must not depend on us.
CHILD = """
import json, resource, sys, time
path, request, names, memory, seconds = sys.argv[1:]
def say(**what):
    sys.stdout.write(json.dumps(what) + "\\n")
    sys.stdout.flush()
stage = "start"
said = {}
try:
    import numpy as np
    import onnx
    import onnxruntime as ort
    ort.set_default_logger_severity(4)
    with np.load(request, allow_pickle=False) as arrays:
        feed = {name: arrays[f"x{i}"] for i, name in enumerate(json.loads(names))}
    with open("/proc/self/statm") as f:
        used = int(f.read().split()[0]) * resource.getpagesize()
    limit = used + int(memory)
    for what, value in (("RLIMIT_AS", limit), ("RLIMIT_CPU", int(seconds) + 1), ("RLIMIT_CORE", 0), ("RLIMIT_FSIZE", 0)):
        hard = resource.getrlimit(getattr(resource, what))[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(getattr(resource, what), (value, value))
    # onnxruntime has the last word: it runs many models that the checker refuses. But the checker's words are better.
    for stage, full in (("check", False), ("infer", True)):
        say(stage=stage)
        try:
            onnx.checker.check_model(path, full_check=full)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError) as error:
            said["note"] = "onnx.checker: " + "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split()))[:500]
            break
    stage = "load"
    say(stage=stage)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    start = time.monotonic()
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    said["load_seconds"] = time.monotonic() - start
    stage = "run"
    say(stage=stage, **said)
    start = time.monotonic()
    outputs = session.run(None, feed)
    said["run_seconds"] = time.monotonic() - start
    shapes = {o.name: list(np.shape(v)) for o, v in zip(session.get_outputs(), outputs)}
    say(stage=stage, done=True, outputs=shapes, **said)
except BaseException as error:
    say(stage=stage, error=f"{type(error).__name__}: {str(error)[:2000]}", **said)
    sys.exit(3)
"""

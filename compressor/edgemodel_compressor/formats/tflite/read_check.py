"""Is the ONNX model the TFLite file? Both are run on the same rows, in a child process with limits.

The file is somebody else's: kernels that meet what they did not expect end the process, and shapes may ask for terabytes.
Inputs and outputs go by their place in the file, so no signature is needed.
"""

from __future__ import annotations

import json
import math
import re
import signal
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted, format_bytes
from edgemodel_compressor.evaluate.runner import Arrays
from edgemodel_compressor.formats.child_process import MEMORY, ending, run_child
from edgemodel_compressor.formats.onnx_model import runtime_message
from edgemodel_oci.files import writing
from edgemodel_oci.golden import compare_outputs

from .graph import Quantization
from .read import Read
from .run import runtime

#: Largest relative error that is allowed, by how the file computes. Weights of 8 bits beside floats: LiteRT rounds the
#: activations to 8 bits while it runs, each in its own way. Integers: kernels round in other places.
TOLERANCE: Mapping[str, float] = MappingProxyType({"float32": 1e-3, "int8 weights": 0.05, "integers": 0.1})
#: A model that rounding itself moves by more is held to so many times that; this at most.
SENSITIVE, MAX_SENSITIVITY = 5.0, 0.01
#: Of an exception's text: what Python calls it.
_KIND = re.compile(r"^[A-Za-z_.]+(Error|Exception|Fail|Argument|Graph)?: ")
#: Numbers nearer than that are the same: what is left of a sigmoid far out is rounding alone.
ABSOLUTE = 1e-6


@dataclass(frozen=True)
class Compared:
    """How far the ONNX model is from the file.

    Attributes:
        ran_with: what ran the file.
        cases: rows.
        max_error: the largest over the outputs of the mean over the cases of ‖ONNX − TFLite‖₂ / ‖TFLite‖₂.
        agreement: share of equal arg max; None where the first output is no classifier's.
        tolerance: what was allowed.
        batched: whether rows together gave what they give alone; None: the batch is fixed, or was not tried.
    """

    ran_with: str
    cases: int
    max_error: float
    agreement: float | None
    tolerance: float
    batched: bool | None

    @property
    def holds(self) -> bool:
        """Whether the ONNX model may stand for the file."""
        return self.max_error <= self.tolerance


def compare_read(
    tflite: Path, onnx: Path, read: Read, feeds: Arrays, *, work_dir: Path, memory_bytes: int, timeout: float
) -> Compared:
    """Run both.

    Args:
        tflite: the file.
        onnx: what was made of it.
        read: how.
        feeds: rows by the inputs' names; one run takes one row, or the fixed batch.
        work_dir: for what goes to the child and comes from it.
        memory_bytes: that the child may allocate.
        timeout: seconds for all of it.

    Raises:
        InputError: one of them cannot be run, or takes more than it may.
    """
    rows = 1 if read.free_batch else _fixed(read)
    count = min((len(a) for a in feeds.values()), default=0) // rows
    if count == 0:
        raise InputError(f"a run takes {counted(rows, 'row')}, and fewer are there: give more data")
    cut = {n: np.ascontiguousarray(a[: count * rows]) for n, a in feeds.items()}
    answers = _child(tflite, onnx, read, cut, rows, work_dir=work_dir, memory_bytes=memory_bytes, timeout=timeout)
    outputs = list(read.outputs)
    quantization = read.quantization

    def named(prefix: str) -> dict[str, Any]:
        return {n: _real(answers[f"{prefix}{i}"], quantization.get(n)) for i, n in enumerate(outputs)}

    theirs, ours = named("t"), named("o")
    score = compare_outputs(ours, theirs, count * rows)
    tolerance = _tolerance(read)
    if score.error > tolerance:
        score = compare_outputs(_rounded_to(ours, theirs), theirs, count * rows)
    if score.error > tolerance and "m0" in answers:
        moved = min(compare_outputs(named("m"), ours, count * rows).error, MAX_SENSITIVITY)
        tolerance = max(tolerance, SENSITIVE * moved)
    batched = None
    if "b0" in answers:
        # Rounding may differ with the batch; what is wrong is wrong by much.
        batched = compare_outputs(_rounded_to(named("b"), ours), ours, count).error <= max(tolerance, 1e-2)
    elif read.free_batch and count > 1:
        batched = False
    return Compared(runtime(), count * rows, score.error, score.agreement, tolerance, batched)


def _rounded_to(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """With theirs where the difference is none."""
    return {
        n: np.where(np.abs(a - theirs[n]) <= ABSOLUTE, theirs[n], a)
        if a.dtype.kind == "f" and a.shape == theirs[n].shape
        else a
        for n, a in ours.items()
    }


def _tolerance(read: Read) -> float:
    return max((TOLERANCE[k] for k in read.kinds if k in TOLERANCE), default=TOLERANCE["float32"])


def _fixed(read: Read) -> int:
    dims = read.model.graph.input[0].type.tensor_type.shape.dim
    return max(1, int(dims[0].dim_value)) if len(dims) else 1


def _real(values: Any, q: Quantization | None) -> Any:
    """Integers that stand for floats, as these: a step is not a wrong answer."""
    if q is None or values.dtype.kind not in "iu":
        return values
    return ((values.astype(np.float64) - q.zero[0]) * q.scale[0]).astype(np.float32)


def _child(
    tflite: Path, onnx: Path, read: Read, feeds: Arrays, rows: int, *, work_dir: Path, memory_bytes: int, timeout: float
) -> dict[str, Any]:
    with writing(work_dir / "request"):
        made = tempfile.TemporaryDirectory(prefix=".read-", dir=work_dir)
    with made as name:
        folder = Path(name)
        arrays: dict[str, Any] = {f"x{i}": feeds[n] for i, n in enumerate(read.inputs)}
        with writing(folder / "in.npz"):
            np.savez(folder / "in.npz", **arrays)
        settings = {
            "tflite": str(tflite.resolve()), "onnx": str(onnx.resolve()), "folder": str(folder.resolve()), "rows": rows,
            "inputs": list(read.inputs.items()), "outputs": list(read.outputs.items()),
            "free": read.free_batch, "memory": memory_bytes, "seconds": math.ceil(timeout),
        }  # fmt: skip
        said, code = run_child(_CHILD, [json.dumps(settings)], timeout)
        last: dict[str, Any] = said[-1] if said else {}
        doing = str(last.get("doing", "starting"))
        if code is None:
            raise InputError(f"the TFLite model: {doing} did not end within {timeout:.0f} s: give a smaller model")
        if not last.get("done"):
            raise InputError(f"the TFLite model: {doing} fails: {_why(last, code, memory_bytes)}")
        with np.load(folder / "out.npz", allow_pickle=False) as found:
            return {n: found[n] for n in found.files}


def _why(last: Mapping[str, Any], code: int, memory_bytes: int) -> str:
    """What the child said before it ended, in words that help: not its exceptions."""
    text, again = str(last.get("error", "")), "export it again, or give it as ONNX"
    if MEMORY.search(text) or code == -signal.SIGKILL:
        return f"it takes more than {format_bytes(memory_bytes)} of memory: look for shapes of gigantic size, or give a smaller model"
    if not text:
        return f"the runtime crashed ({ending(code)}): the model is damaged, or hits a bug: {again}"
    said = runtime_message(_KIND.sub("", text))
    return f"{said or 'it is damaged'}: {again}"


_CHILD = """
import json, resource, sys
settings = json.loads(sys.argv[1])
doing = {"doing": "starting the runtimes"}
def say(**what):
    sys.stdout.write(json.dumps({**doing, **what}) + "\\n")
    sys.stdout.flush()
def start(what):
    doing["doing"] = what
    say()
try:
    import numpy as np
    import onnxruntime as ort
    from ai_edge_litert.interpreter import Interpreter, OpResolverType
    ort.set_default_logger_severity(4)
    with np.load(settings["folder"] + "/in.npz", allow_pickle=False) as arrays:
        feeds = [arrays[f"x{i}"] for i in range(len(settings["inputs"]))]
    with open("/proc/self/statm") as f:
        used = int(f.read().split()[0]) * resource.getpagesize()
    limits = (("RLIMIT_AS", used + settings["memory"]), ("RLIMIT_CPU", settings["seconds"] + 1), ("RLIMIT_CORE", 0),
              ("RLIMIT_FSIZE", settings["memory"]))
    for what, value in limits:
        hard = resource.getrlimit(getattr(resource, what))[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(getattr(resource, what), (value, value))
    rows, out = settings["rows"], {}
    count = len(feeds[0]) // rows
    def join(prefix, parts):
        for i in range(len(settings["outputs"])):
            out[f"{prefix}{i}"] = np.concatenate([np.atleast_1d(p[i]) for p in parts])
    def cut(arrays, k, n):
        return [a[k * n : (k + 1) * n] for a in arrays]
    start("running it by LiteRT")
    places = [i for _, i in settings["inputs"]]
    def lite(resolver):
        found = Interpreter(model_path=settings["tflite"], num_threads=1, experimental_op_resolver_type=resolver)
        for place, array in zip(places, feeds):
            found.resize_tensor_input(place, [rows, *array.shape[1:]])
        found.allocate_tensors()
        parts = []
        for k in range(count):
            found.reset_all_variables()
            for place, array in zip(places, cut(feeds, k, rows)):
                found.set_tensor(place, array)
            found.invoke()
            parts.append([np.array(found.get_tensor(i)) for _, i in settings["outputs"]])
        return parts
    try:
        parts = lite(OpResolverType.AUTO)
    except (ValueError, RuntimeError):
        # A delegate may refuse what the kernels know.
        parts = lite(OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    join("t", parts)
    start("running the ONNX model that was made of it")
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = ort.InferenceSession(settings["onnx"], options, providers=["CPUExecutionProvider"])
    names = [n for n, _ in settings["inputs"]]
    wanted = [n for n, _ in settings["outputs"]]
    def run(arrays, n):
        return [session.run(wanted, dict(zip(names, cut(arrays, k, n)))) for k in range(len(arrays[0]) // n)]
    join("o", run(feeds, rows))
    rng = np.random.default_rng(0)
    if all(a.dtype.kind == "f" for a in feeds):
        moved = [(a * (1 + 1e-6 * rng.standard_normal(a.shape))).astype(a.dtype) for a in feeds]
        join("m", run(moved, rows))
    if settings["free"] and count > 1:
        try:
            join("b", run(feeds, count))
        except Exception:
            pass
    start("writing its answers")
    np.savez(settings["folder"] + "/out.npz", **out)
    say(done=True)
except BaseException as error:
    say(error=f"{type(error).__name__}: {str(error)[:2000]}")
    sys.exit(3)
"""

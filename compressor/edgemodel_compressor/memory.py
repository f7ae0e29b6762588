"""How much memory a Job will take, before it takes it, against what it may take.

The estimate is of the resident memory of the Job's process and its children together, and holds for what was measured:
`benchmarks/memory.py` prints estimate and peak side by side.

Large models (`formats.kept`) are worked on one tensor at a time, and their sessions map the weights:

    base + max(step · largest tensor, weights + run · largest tensor, float weights · served + child)

- base: interpreter, numpy, onnx and onnxruntime of the Job and of one worker.
- step: what a step allocates for one tensor, in units of its float32 bytes.
- run: a lean session turns one stored tensor at a time into floats.
- served, child: a process that serves the source, or a file with halves, which the runtime makes floats of; others are only
  measured where they take less than 1.5 times their float weights (`evaluate.serving`).

Integer computing (activations Static or Dynamic) of a large model needs it as one message, in onnxruntime's quantizer and
again in ours: `INTEGER_FACTOR` times its size.

Small models are held in memory as a whole, several times: source, prepared, pruned, candidate, its file, and sessions of
source and candidate with packed weights. Beside them, what they compute: as many rows run at a time as `Runs` says, so that it stays
within `RUN_BYTES` where one row does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

from edgemodel_api.edgemodel import Activations, Format, Granularity, Precision, Step
from edgemodel_api.errors import InputError
from edgemodel_api.quantities import format_bytes
from edgemodel_api.reasons import INSUFFICIENT_MEMORY

from .evaluate.runner import BATCH_ROWS
from .evaluate.serving import CHILD_BYTES
from .formats import kept
from .formats.walk import external_names, weight_sizes
from .reading import open_to_read
from .steps.encodings import computes_integers

BASE_BYTES = 200 * 2**20
#: Where activations are quantized: onnxruntime's quantizer, in a process of its own, beside the Job's.
INTEGER_BASE_BYTES = 350 * 2**20
#: Where something learns: JAX, and what it compiles. What a step takes is told when it is compiled (`training.room`).
LEARNING_BYTES = 300 * 2**20
#: Of the largest tensor's bytes, as float32.
READ_FACTOR, RUN_FACTOR, HALF_FACTOR, INT8_FACTOR, INT4_FACTOR = 1.5, 2.5, 3.0, 4.0, 18.0
PRUNE_FACTOR, PRUNE_CHANNEL_FACTOR = 4.0, 8.0
SERVED_FACTOR, SERVED_HALF_FACTOR = 1.05, 1.15
INTEGER_FACTOR = 6.0
SMALL_FACTOR = 11.0
#: Of a format besides ONNX: bytes of its libraries (the child's too), and of one conversion with its check, in units of the
#: weights, beside the model. Measured of 64 MiB in four matrices, all encodings of TFLite and float16 of Core ML: 715 MiB and
#: 532 MiB together.
CONVERSION: Mapping[Format, tuple[int, float]] = MappingProxyType({
    Format.TFLITE: (150 * 2**20, 9.0),
    Format.COREML: (350 * 2**20, 9.0),
})  # fmt: skip
#: What a Job with a small model holds meanwhile: source, prepared model, and sessions of the source.
HELD_FACTOR = 5.0
#: A phase.
ROUNDING = "rounding weights by the calibration data"
#: What one run of several rows may allocate.
RUN_BYTES = 128 * 2**20
#: … of networks that only answer while one learns: they are there besides.
ANSWERING_BYTES = RUN_BYTES // 4
#: Sessions that keep what their runs allocated: source and candidate.
SESSIONS = 2
#: Version 2, version 1.
_CGROUP = ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Sizes:
    """Of a source, before it is loaded.

    Attributes:
        weights: bytes of all initializers.
        largest: of the largest.
        file: of the ONNX file itself.
    """

    weights: int
    largest: int
    file: int

    @property
    def large(self) -> bool:
        """Whether its weights will be kept outside."""
        return max(self.weights, self.file) >= kept.LARGE_BYTES


@dataclass(frozen=True)
class Estimate:
    """Peak of a Job.

    Attributes:
        peak: bytes.
        phase: what takes them, for people.
    """

    peak: int
    phase: str


@dataclass(frozen=True)
class Runs:
    """How much is computed at a time.

    Attributes:
        rows: at most in one run.
        lanes: runs at a time: 2 for two and more, or 1.
        run_bytes: what one run of so many rows allocates.
        peak: bytes of all runs that a Job keeps in memory, at least.
    """

    rows: int
    lanes: int
    run_bytes: int
    peak: int

    def within(self, size: int) -> int:
        """Rows whose numbers take no more than so many bytes, at most those of a run; at least one."""
        return max(1, min(self.rows, size * self.rows // max(1, self.run_bytes)))


@dataclass(frozen=True)
class Limit:
    """What a Job may take.

    Attributes:
        memory_bytes: the limit.
        source: who says so, for people.
        change: what to do about it, for people.
    """

    memory_bytes: int
    source: str
    change: str

    def too_little(self, needed: int) -> str:
        """Half a sentence for what needs so many bytes: the limit, and what to make of it, as people write it into a manifest."""
        unit = 2**28
        return (
            f"{format_bytes(self.memory_bytes)} are {self.source}: {self.change} to at least"
            f" {format_bytes(-(-needed // unit) * unit)}"
        )


def sizes_of(path: Path, folder: Path | None = None) -> Sizes:
    """What an ONNX file says of its weights, and at most what is there: a claim beyond that is refused by whoever loads it.

    Args:
        path: the file.
        folder: of its external data; None: that of the file.

    Raises:
        InputError: it cannot be read.
    """
    with open_to_read(path, f"model {path.name}") as file:
        size = os.fstat(file.fileno()).st_size
        weights, largest = weight_sizes(file.fileno(), size)
        there = size
        # Only what the model names: its folder may be anybody's home.
        for name in external_names(file.fileno(), size) if weights > size else ():
            with contextlib.suppress(OSError, ValueError):
                there += os.stat((folder or path.parent) / name).st_size
    return Sizes(min(weights, there), min(largest, there), size)


def predict(
    sizes: Sizes,
    steps: Iterable[Step] | None,
    formats: Iterable[Format] = (),
    *,
    learns: bool = False,
    rounding: int = 0,
) -> Estimate:
    """The peak of a Job.

    Args:
        sizes: of its source.
        steps: None: a search.
        formats: that it writes.
        learns: whether a network is trained; what a step of that takes is told later (`training.room`).
        rounding: bytes that rounding by data takes beside the model, where it is known (`steps.gram`).
    """
    steps = None if steps is None else tuple(steps)
    found = _without_learning(sizes, steps, formats)
    if rounding and not sizes.large:
        # Not while onnxruntime's quantizer runs.
        held = BASE_BYTES + int(HELD_FACTOR * max(sizes.weights, sizes.file))
        found = max(found, Estimate(held + rounding, ROUNDING), key=lambda e: e.peak)
    return Estimate(found.peak + LEARNING_BYTES, found.phase) if learns else found


def _without_learning(sizes: Sizes, steps: Iterable[Step] | None, formats: Iterable[Format]) -> Estimate:
    wanted = tuple(f for f in formats if f in CONVERSION)
    if not sizes.large:
        size = max(sizes.weights, sizes.file)
        base = INTEGER_BASE_BYTES if _computes_integers(steps) else BASE_BYTES
        found = [Estimate(base + int(SMALL_FACTOR * size), "the model, its candidates and their sessions")]
        found += [_converting(f, size, HELD_FACTOR) for f in wanted]
        return max(found, key=lambda e: e.peak)
    steps = None if steps is None else tuple(steps)
    halves = steps is None or any(s.quantize is not None and s.quantize.precision is Precision.FLOAT16 for s in steps)
    served = SERVED_HALF_FACTOR if halves else SERVED_FACTOR
    phases = {
        "reading one tensor at a time": READ_FACTOR * sizes.largest,
        "a session that maps the weights": sizes.weights + RUN_FACTOR * sizes.largest,
        "serving a file in a process of its own": served * sizes.weights + CHILD_BYTES,
    }
    for name, factor in _of_steps(steps):
        phases[name] = factor * (sizes.weights if name.startswith("integer") else sizes.largest)
    phase = max(phases, key=lambda name: phases[name])
    worked = Estimate(BASE_BYTES + int(phases[phase]), phase)
    return max((worked, *(_converting(f, sizes.weights, 1.0) for f in wanted)), key=lambda e: e.peak)


def _computes_integers(steps: Iterable[Step] | None) -> bool:
    """Also a search may."""
    return steps is None or any(s.quantize is not None and computes_integers(s.quantize) for s in steps)


def _converting(wanted: Format, size: int, held: float) -> Estimate:
    library, factor = CONVERSION[wanted]
    return Estimate(
        BASE_BYTES + library + int((factor + held) * size),
        f"converting to {wanted.value}, which needs the whole model in memory",
    )


def in_use() -> int:
    """Bytes of this process and its children, without pages of mapped files, which the kernel takes back when it needs them."""
    here = psutil.Process()
    found = 0
    for process in (here, *here.children(recursive=True)):
        with contextlib.suppress(psutil.Error):  # a child that has just ended
            info = process.memory_info()
            found += info.rss - getattr(info, "shared", 0)  # told on Linux
    return found


def give_back() -> None:
    """What was freed and the C library keeps for later goes back to the system, where it can (glibc)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def limit(root: Path = Path("/")) -> Limit:
    """The smallest of the container's limit and what this machine has free.

    Args:
        root: of the file system, for tests.
    """
    free = psutil.virtual_memory().available
    found = Limit(free, "free on this machine", "close other programs, or use a machine with more memory")
    for name in _CGROUP:
        try:
            text = (root / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit() and int(text) < found.memory_bytes:
            change = (
                "raise job.memory of the chart (--job-memory of the operator), or the container's memory limit where you run"
                " it yourself"
            )
            found = Limit(int(text), "the memory limit of the Job's container", change)
    return found


def check(
    path: Path,
    steps: Iterable[Step] | None,
    allowed: Limit | None = None,
    folder: Path | None = None,
    formats: Iterable[Format] = (),
    *,
    learns: bool = False,
) -> Estimate:
    """Before any work: does it fit?

    Args:
        path: the source's ONNX file.
        steps: of the Job; None: a search.
        allowed: default: `limit()`.
        folder: of its external data; None: that of the file.
        formats: of the Job.
        learns: whether a network is trained.

    Raises:
        InputError: reason InsufficientMemory, with both numbers and what to set.
    """
    sizes = sizes_of(path, folder)
    steps = None if steps is None else tuple(steps)
    found, allowed = predict(sizes, steps, formats, learns=learns), allowed or limit()
    if found.peak <= allowed.memory_bytes:
        return found
    hint = ""
    if found.phase.startswith("integer"):
        hint = "; or quantize weights only (activations: None), which works tensor by tensor"
    if found.phase.startswith("converting"):
        hint = f"; or take {found.phase.split()[2].rstrip(',')} out of spec.formats"
    raise InputError(
        f"compressing this model takes about {format_bytes(found.peak)} of memory ({found.phase}; its weights are"
        f" {format_bytes(sizes.weights)}, the largest tensor {format_bytes(sizes.largest)}), and"
        f" {allowed.too_little(found.peak)}{hint}",
        reason=INSUFFICIENT_MEMORY,
    )


def plan_runs(request: int, estimate: Estimate, allowed: Limit, *, lanes: int = 2) -> Runs:
    """As many rows at a time as fit, before anything runs.

    Args:
        request: bytes of the numbers that one request makes (`footprint`): a row's, or those of the model's fixed batch.
        estimate: of the Job besides.
        allowed: for both, when the Job began.
        lanes: runs at a time that there may be.

    Raises:
        InputError: not even one at a time fits (reason InsufficientMemory), with both numbers and what to set.
    """
    lanes = min(2, lanes)
    if request == 0:
        return Runs(BATCH_ROWS, lanes, 0, 0)
    left = allowed.memory_bytes - estimate.peak
    if SESSIONS * lanes * request > left:
        lanes = 1
    # Half of what is left: these are estimates.
    rows = max(1, min(BATCH_ROWS, min(RUN_BYTES, left // (2 * SESSIONS * lanes)) // request))
    found = Runs(rows, lanes, rows * request, SESSIONS * lanes * rows * request)
    if found.peak > left:
        needed = estimate.peak + found.peak
        raise InputError(
            f"compressing this model takes about {format_bytes(needed)} of memory ({estimate.phase}; while it answers one request, its own numbers"
            f" take {format_bytes(request)}, for the source and for a candidate), and {allowed.too_little(needed)}; or give data"
            f" with smaller inputs{', or none in data.calibration' if estimate.phase == ROUNDING else ''}",
            reason=INSUFFICIENT_MEMORY,
        )
    return found


def whole(model: Any, what: str) -> Any:
    """A large model as one message, for what cannot work tensor by tensor; a small one as it is.

    Args:
        model: a ModelProto.
        what: needs it, for the message.

    Raises:
        InputError: beyond protobuf's limit (reason NotSupported), or it does not fit (reason InsufficientMemory).
    """
    size = sum(kept.length_of(t) for t in kept.kept_tensors(model))
    if size:
        needed, allowed = BASE_BYTES + int(INTEGER_FACTOR * size), limit()
        made = kept.inlined(model, what=what) if needed <= allowed.memory_bytes or size >= kept.PROTOBUF_LIMIT else None
        if made is None:
            raise InputError(
                f"{what} needs the whole model in memory several times, about {format_bytes(needed)}, and"
                f" {allowed.too_little(needed)}; or quantize weights only (activations: None), which works tensor by tensor",
                reason=INSUFFICIENT_MEMORY,
            )
        return made
    return model


def _of_steps(steps: Iterable[Step] | None) -> list[tuple[str, float]]:
    if steps is None:
        # A search tries what works tensor by tensor; for integer computing see `formats.kept.inlined`.
        return [("pruning one tensor", PRUNE_FACTOR), ("storing one tensor as int4", INT4_FACTOR)]
    found = []
    for step in steps:
        if step.prune is not None:
            whole_scores = step.prune.granularity is not Granularity.TENSOR or step.prune.pattern is not None
            found.append(("pruning one tensor", PRUNE_CHANNEL_FACTOR if whole_scores else PRUNE_FACTOR))
        if (quantize := step.quantize) is not None:
            if quantize.precision is Precision.FLOAT16:
                found.append(("storing one tensor as float16", HALF_FACTOR))
            elif quantize.precision is Precision.INT4:
                found.append(("storing one tensor as int4", INT4_FACTOR))
            elif quantize.activations is Activations.NONE:
                found.append(("storing one tensor as int8", INT8_FACTOR))
            else:
                found.append(("integer computing, which needs the whole model in memory", INTEGER_FACTOR))
    return found

"""A source that is no ONNX file: a TFLite file becomes one right after it was fetched, and the Job works on that.

What the user gave stays beside it: its digest is the source's in the report, and once there is data to run, the two are
compared, before anything is built on the ONNX model.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgemodel_api.edgemodel import Format
from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted, format_bytes
from edgemodel_api.reasons import INSUFFICIENT_MEMORY
from edgemodel_api.report import Original as Row
from edgemodel_oci.artifact import packed_size

from . import memory
from .data import Dataset, synthetic
from .evaluate.runner import Arrays
from .formats import kept, signature
from .formats.tflite.read_file import is_tflite
from .sources import Fetched

#: Rows of the data, and made-up ones, that the two are compared on.
ROWS = 8
#: Reading maps the file, and has its numbers in the model's message and in its bytes.
MEMORY_FACTOR = 4.0
TRY_ROWS = 3
_INTEGERS = (
    "the file computes with integers already, so little is left to compress: give the float model that it was made of"
)


@dataclass(frozen=True)
class Original:
    """The file that the user gave.

    Attributes:
        format: TFLite.
        path: of the file.
        onnx: what was made of it.
        sha256: of the file, hex.
        size_bytes: of the file.
        read: how it was read (`formats.tflite.read.Read`).
        notes: for the report.
    """

    format: Format
    path: Path
    onnx: Path
    sha256: str
    size_bytes: int
    read: Any
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Limits:
    """Of the process that tries the files: bytes and seconds, by the size of a file."""

    memory: Callable[[int], int]
    seconds: Callable[[int], float]


def as_onnx(fetched: Fetched, work_dir: Path, limits: Limits) -> tuple[Fetched, Original | None]:
    """A fetched model as an ONNX file, and what it was where that is something else.

    Args:
        fetched: of any name.
        work_dir: where the ONNX file goes, under the fetched one's name.
        limits: for the first try.

    Raises:
        InputError: a TFLite file that is damaged, has operators that are not read, or does not fit into memory.
    """
    if not is_tflite(fetched.path):
        return fetched, None
    if importlib.util.find_spec("ai_edge_litert") is None:
        raise InputError(
            "it is a TFLite model, which needs the extra `edgemodel[tflite]`: install it, or give the model as ONNX"
        )
    _check_memory(fetched.size)
    from .formats.tflite.read import read_tflite, save

    path = fetched.path.with_suffix(".tflite")
    fetched.path.replace(path)
    onnx = work_dir / fetched.path.with_suffix(".onnx").name
    read = read_tflite(path)
    digest, size = save(read, onnx)
    if read.free_batch and not _batch_holds(path, onnx, read, work_dir, limits):
        read = read_tflite(path, free_batch=False)
        digest, size = save(read, onnx)
    notes = (*read.notes, *((_INTEGERS,) if "integers" in read.kinds else ()))
    original = Original(Format.TFLITE, path, onnx, fetched.sha256, fetched.size, read, notes)
    return replace(fetched, path=onnx, sha256=digest, size=size, folder=work_dir, pinned=True), original


def _check_memory(size: int) -> None:
    if size >= kept.PROTOBUF_LIMIT:
        raise InputError(
            f"it is a TFLite model of {format_bytes(size)}, and at most {format_bytes(kept.PROTOBUF_LIMIT)} are read: give it"
            " as ONNX with external data"
        )
    needed, allowed = memory.BASE_BYTES + int(MEMORY_FACTOR * size), memory.limit()
    if needed > allowed.memory_bytes:
        raise InputError(
            f"reading this TFLite model takes about {format_bytes(needed)} of memory, and"
            f" {format_bytes(allowed.memory_bytes)} are {allowed.source}: {allowed.change}",
            reason=INSUFFICIENT_MEMORY,
        )


def _batch_holds(path: Path, onnx: Path, read: Any, work_dir: Path, limits: Limits) -> bool:
    """Whether made-up rows together are answered as alone. Where they cannot be run at all, the data will tell."""
    from .formats.tflite.read_check import compare_read

    inputs = signature.inputs_of(read.model.graph)
    rows = synthetic(inputs, samples=TRY_ROWS, seed=1).take(TRY_ROWS, 0)
    size = onnx.stat().st_size
    try:
        found = compare_read(
            path, onnx, read, rows, work_dir=work_dir, memory_bytes=limits.memory(size), timeout=limits.seconds(size)
        )
    except InputError:
        return True
    return found.batched is not False


def verified(
    original: Original, data: tuple[Dataset, ...], inputs: tuple[Any, ...], *, work_dir: Path, limits: Limits, seed: int
) -> tuple[Row, tuple[str, ...]]:
    """A row for the report, and sentences for its warnings.

    Args:
        original: what the user gave.
        data: validation and calibration data; made-up rows come with them.
        inputs: of the ONNX model.
        work_dir: of the Job.
        limits: of the process that runs them.
        seed: of the choice of rows.

    Raises:
        InputError: one of the two cannot be run, or their answers differ by more than is allowed.
    """
    from .formats.tflite.read_check import compare_read

    batch = signature.fixed_batch(inputs) or 1
    rows = _rows(data, inputs, batch, seed)
    size = original.onnx.stat().st_size
    found = compare_read(
        original.path, original.onnx, original.read, rows, work_dir=work_dir, memory_bytes=limits.memory(size),
        timeout=limits.seconds(size),
    )  # fmt: skip
    rows_run = f"{counted(found.cases, 'row')}, run by {found.ran_with}"
    measured = f"relative error {found.max_error:.2g} on {rows_run}; {found.tolerance:.2g} is allowed"
    if not found.holds:
        raise InputError(
            f"the ONNX model that was made of this TFLite model does not give its answers ({measured}): give the model as"
            " ONNX, and please report the model's operators"
        )
    if found.batched is False:
        raise InputError(
            "the ONNX model that was made of this TFLite model answers rows otherwise when they come together: give the model"
            " as ONNX"
        )
    row = Row(
        format=original.format, sha256=original.sha256, size_bytes=packed_size(original.path, original.format),
        file_bytes=original.size_bytes, ran_with=found.ran_with, cases=found.cases, max_error=found.max_error,
        agreement=found.agreement, tolerance=found.tolerance, notes=original.notes,
    )  # fmt: skip
    said = f"the source is a TFLite model, which was read as ONNX: {measured}"
    return row, (said, *(f"source: {note}" for note in original.notes))


def _rows(data: tuple[Dataset, ...], inputs: tuple[Any, ...], batch: int, seed: int) -> Arrays:
    """Of each data set, and made-up ones where whole numbers have no meaning that they could miss."""
    count = -(-ROWS // batch) * batch
    sets = [*data]
    if all(spec.dtype.kind == "f" for spec in inputs):
        sets.append(synthetic(inputs, samples=count, seed=seed))
    taken = [d.take(count, seed) for d in _distinct(sets)]
    whole = [{n: a[: len(a) // batch * batch] for n, a in t.items()} for t in taken]
    return {spec.name: np.concatenate([t[spec.name] for t in whole]) for spec in inputs}


def _distinct(sets: list[Dataset]) -> list[Dataset]:
    found: list[Dataset] = []
    for one in sets:
        if not any(one is other for other in found):
            found.append(one)
    return found

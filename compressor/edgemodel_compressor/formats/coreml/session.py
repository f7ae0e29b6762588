"""Running a package without Core ML: by the interpreter, with the ONNX model's names, types and batches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgemodel_api.errors import InputError
from edgemodel_compressor.evaluate.runner import Arrays, Run

from .interpret import interpreter
from .mil import Array
from .package import read_package
from .program import MilProgram, decode

#: userDefined metadata of the package: JSON of the ONNX model's ends.
SIGNATURE = "dev.edgemodel.signature"
_INT32 = np.iinfo(np.int32)
#: The shape of an output that keeps the one that it has.
_ANY = (-1,)


@dataclass(frozen=True)
class End:
    """An input or output: its name in the ONNX model and in Core ML, the ONNX type, Core ML's shape, and whether its
    first axis is a batch that Core ML takes one by one.
    """

    onnx_name: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    batch: bool


def signature_text(inputs: list[End], outputs: list[End]) -> str:
    """For the package's metadata."""
    ends = {"inputs": [vars(e) for e in inputs], "outputs": [vars(e) for e in outputs]}
    return json.dumps(ends, sort_keys=True, separators=(",", ":"))


def open_run(path: Path) -> Run:
    """A function that runs the package; weights are unpacked once.

    Inputs and outputs are the ONNX model's, where EdgeModel wrote the package, else Core ML's. Rows beyond the
    package's own first axis are run one after the other, as `MLModel.predictions(from:)` does.

    Args:
        path: a zip that `convert` wrote, or an .mlpackage folder.

    Raises:
        InputError: no such package, or one with operations that the interpreter does not know; while running: feeds
            that do not fit.
    """
    program = decode(read_package(path))
    inputs, outputs = _ends(program)
    model = interpreter(program)

    def run(feeds: Arrays) -> Arrays:
        given = {}
        for end in inputs:
            if end.onnx_name not in feeds:
                raise InputError(
                    f"the model's input {end.onnx_name!r} is missing; it has {', '.join(e.onnx_name for e in inputs)}"
                )
            given[end.name] = _entering(np.asarray(feeds[end.onnx_name]), end)
        parts = [model(part) for part in _parts(given, inputs)]
        return {end.onnx_name: _leaving([p[end.name] for p in parts], end) for end in outputs}

    return run


def run(path: Path, feeds: Arrays) -> Arrays:
    """Run once.

    Args:
        path: as for `open_run`.
        feeds: by the ONNX model's names, in its layouts.

    Returns:
        outputs by the ONNX model's names, in its layouts and types.

    Raises:
        InputError: as for `open_run`.
    """
    return open_run(path)(feeds)


def _ends(program: MilProgram) -> tuple[list[End], list[End]]:
    text = program.metadata.get(SIGNATURE)
    if text is None:
        plain = {
            t.name: End(t.name, t.name, str(t.dtype), tuple(d or 1 for d in t.shape), batch=False)
            for t in program.inputs
        }
        results = [End(n, n, str(program.features[n].dtype), _ANY, batch=False) for n in program.outputs]
        return list(plain.values()), results
    try:
        document = json.loads(text)
        inputs, outputs = ([_end(e) for e in document[key]] for key in ("inputs", "outputs"))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"the metadata {SIGNATURE} cannot be read: convert the model again") from None
    if {e.name for e in inputs} != {t.name for t in program.inputs} or not {e.name for e in outputs} <= set(
        program.outputs
    ):
        raise InputError(f"the metadata {SIGNATURE} and the program differ in their names: convert the model again")
    return inputs, outputs


def _end(entry: Mapping[str, Any]) -> End:
    dtype = str(entry["dtype"])
    np.dtype("float32" if dtype == "bfloat16" else dtype)
    shape = tuple(int(d) for d in entry["shape"])
    return End(str(entry["onnx_name"]), str(entry["name"]), dtype, shape, bool(entry["batch"]))


def _entering(value: Array, end: End) -> Array:
    if (
        value.dtype.kind in "iu"
        and value.size
        and not (_INT32.min <= int(value.min()) and int(value.max()) <= _INT32.max)
    ):
        raise InputError(
            f"input {end.onnx_name!r}: {int(value.max())} is beyond 32 bits, and Core ML has no larger integers",
            reason="InvalidInput",
        )
    if value.dtype.kind == "b":
        value = value.astype(np.int32)
    if value.ndim == 0 and end.shape == (1,):
        value = value.reshape(1)
    return value


def _parts(given: dict[str, Array], inputs: list[End]) -> list[dict[str, Array]]:
    """Cut along the first axis into what the package takes."""
    counts = {}
    for end in inputs:
        value = given[end.name]
        if value.shape == end.shape or not end.shape:
            continue
        fits = value.ndim == len(end.shape) and value.shape[1:] == end.shape[1:]
        if not fits or value.shape[0] == 0 or value.shape[0] % end.shape[0]:
            raise InputError(
                f"input {end.onnx_name!r}: shape {list(value.shape)}, but the model takes {list(end.shape)}",
                reason="InvalidInput",
            )
        counts[end.name] = value.shape[0] // end.shape[0]
    if len(set(counts.values())) > 1:
        raise InputError(f"inputs with different numbers of rows: {counts}", reason="InvalidInput")
    rows = next(iter(counts.values()), 1)
    sizes = {e.name: e.shape[0] for e in inputs if e.name in counts}
    return [
        {n: v[i * sizes[n] : (i + 1) * sizes[n]] if n in counts else v for n, v in given.items()} for i in range(rows)
    ]


def _leaving(parts: list[Array], end: End) -> Array:
    scalar = end.shape == ()
    if len(parts) == 1:
        joined = parts[0].reshape(()) if scalar and parts[0].size == 1 and parts[0].shape == (1,) else parts[0]
    else:
        joined = np.concatenate(parts)
    return joined.astype(np.dtype("float32" if end.dtype == "bfloat16" else end.dtype))

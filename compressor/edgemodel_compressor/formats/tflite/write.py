"""ONNX → TFLite, without TensorFlow: checked before, during and after.

Before: `unsupported` names every node that cannot be converted. After: the float file is run beside onnxruntime on
given or generated rows and must agree up to rounding, so the lowering is right; then the encoded file is run, and must
stay within what its encoding may cost.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted
from edgemodel_api.reasons import NOT_SUPPORTED
from edgemodel_compressor.evaluate.runner import Arrays, Run, runner
from edgemodel_compressor.formats.equivalence import Equivalence, compare_runs
from edgemodel_oci.files import put, replacing
from edgemodel_oci.golden import compare_outputs, run_cases

from .known import ROWS, input_shapes, random_feeds
from .lower import STATIC, Lowered, lower
from .run import runtime
from .schema import serialize
from .site import REGISTRY
from .worker import isolated_run

FLOAT32, FLOAT16, INT8_WEIGHTS, INT8_FULL = "float32", "float16", "int8-weights", "int8-full"
#: Largest relative error against the ONNX model, by encoding. Float: rounding in another order. The others are bounds
#: against a broken file; whether the quality is enough is for the gates to say.
TOLERANCE: Mapping[str, float] = MappingProxyType({FLOAT32: 1e-3, FLOAT16: 2e-2, INT8_WEIGHTS: 0.25, INT8_FULL: 0.75})
#: A model that is itself less exact than float32's tolerance (a logarithm of almost nothing, say) is held to so many
#: times what a rounding of its inputs moves it by; this at most.
SENSITIVE = 5.0
MAX_SENSITIVITY = 0.01
ENCODINGS = tuple(TOLERANCE)
#: ONNX operator → what of it is converted; empty: all.
OPS: Mapping[str, str] = MappingProxyType(
    dict(
        sorted(
            {
                **dict.fromkeys(STATIC, "where it is computed from weights and shapes alone"),
                **{op: note for op, (_, note) in REGISTRY.items()},
            }.items()
        )
    )
)
_DESCRIPTION = "EdgeModel, converted from ONNX"
#: Rows that a conversion is checked with.
CHECKED_ROWS = 8


@dataclass(frozen=True)
class Converted:
    """A written file.

    Attributes:
        path: of it.
        encoding: float32, float16, int8-weights or int8-full.
        notes: what was decided and found, in words.
        size_bytes: of the file.
        check: how it agreed with the ONNX model.
        free_batch: whether it takes any batch.
    """

    path: Path
    encoding: str
    notes: tuple[str, ...]
    size_bytes: int
    check: Equivalence
    free_batch: bool


def unsupported(model: Any, feeds: Arrays | None = None) -> tuple[str, ...]:
    """What cannot be converted, each as "node NAME (Op): why"; empty: everything can.

    Args:
        model: a ModelProto that passed the loader's checks.
        feeds: some rows, for models whose inputs have free dimensions besides the batch.

    Raises:
        InputError: the model cannot be run by onnxruntime either.
    """
    return lower(model, feeds).problems


def convert(
    model: Any,
    dest: Path,
    *,
    encoding: str = FLOAT32,
    calibration: Arrays | None = None,
    feeds: Arrays | None = None,
    float_nodes: Collection[str] = (),
    tolerance: float | None = None,
) -> Converted:
    """Write a `.tflite` file.

    Args:
        model: a ModelProto that passed the loader's checks; inputs and outputs keep their names, shapes and types.
        dest: the file; it appears whole or not at all.
        encoding: one of `ENCODINGS`.
        calibration: rows named as the inputs, for the ranges of `int8-full`.
        feeds: rows to check the file with; None: calibration rows, else random ones.
        float_nodes: names of ONNX nodes that keep float weights and arithmetic.
        tolerance: instead of `TOLERANCE`.

    Raises:
        InputError: nodes that cannot be converted (all of them are named); or the file disagrees with the ONNX model.
    """
    if encoding not in ENCODINGS:
        raise InputError(f"TFLite encoding {encoding!r} is unknown: choose one of {', '.join(ENCODINGS)}")
    if encoding == INT8_FULL and not calibration:
        raise InputError(
            "TFLite int8-full needs calibration data for the ranges of activations: give data.calibration, or at"
            " least data.validation"
        )
    lowered = lower(model, calibration or feeds)
    if lowered.problems:
        raise InputError(_listed(lowered.problems), reason=NOT_SUPPORTED)
    onnx = _onnx(model)
    rows = _check_rows(model, feeds or calibration)
    notes = list(lowered.notes)
    content = serialize(lowered.graph, description=_DESCRIPTION)
    limit = TOLERANCE[FLOAT32] if tolerance is None or encoding != FLOAT32 else tolerance
    check, said = _checked(onnx, content, rows, lowered, limit, given=encoding == FLOAT32 and tolerance is not None)
    notes += said
    if encoding != FLOAT32:
        content, more = _encoded(lowered, content, encoding, calibration or {}, float_nodes)
        notes += more
        limit = TOLERANCE[encoding] if tolerance is None else tolerance
        check, _ = _checked(onnx, content, rows, lowered, limit, given=tolerance is not None)
    with replacing(dest) as file:
        put(file, content, dest)
    return Converted(dest, encoding, tuple(notes), len(content), check, lowered.free)


def _encoded(
    lowered: Lowered, content: bytes, encoding: str, calibration: Arrays, float_nodes: Collection[str]
) -> tuple[bytes, tuple[str, ...]]:
    from .quantize import candidates, quantize_full
    from .ranges import calibrate
    from .weights import halve_weights, quantize_weights

    graph = lowered.graph
    notes: tuple[str, ...]
    if encoding == FLOAT16:
        notes = halve_weights(graph, float_nodes)
    elif encoding == INT8_WEIGHTS:
        notes = quantize_weights(graph, float_nodes)
    else:
        notes = quantize_full(graph, calibrate(graph, content, calibration, wanted=candidates(graph)), float_nodes)
    # Nobody quantizes what is quantized: names that nothing in the model asks for stay out.
    return serialize(graph, description=f"{_DESCRIPTION}, {encoding}", every_name=False), notes


def _listed(problems: tuple[str, ...]) -> str:
    shown = "; ".join(problems[:20]) + (f"; and {len(problems) - 20} more" if len(problems) > 20 else "")
    return f"the model cannot be converted to TFLite: {shown}: take TFLite out of spec.formats, or change these"


def _onnx(model: Any) -> Run:
    from edgemodel_compressor.formats.onnx_model import open_session

    return runner(open_session(model.SerializeToString()))


def _check_rows(model: Any, given: Arrays | None) -> Arrays:
    shapes, _ = input_shapes(model, given)
    fixed = next((s[0] for s in shapes.values() if s and s[0] is not None), None)
    rows = CHECKED_ROWS if fixed is None else fixed
    made = random_feeds(model, shapes, rows, seed=1)
    if given and all(_fits(given.get(n), a, free=shapes[n][0] is None) for n, a in made.items()):
        return {n: np.ascontiguousarray(given[n][: len(a)].astype(a.dtype, copy=False)) for n, a in made.items()}
    return made


def _fits(given: Any, wanted: Any, *, free: bool) -> bool:
    return given is not None and given.shape[1:] == wanted.shape[1:] and len(given) >= (1 if free else len(wanted))


def _checked(
    onnx: Run, content: bytes, feeds: Arrays, lowered: Lowered, tolerance: float, *, given: bool
) -> tuple[Equivalence, tuple[str, ...]]:
    # By a file: sent through a pipe, the weights would be in memory three times more.
    with tempfile.TemporaryDirectory(prefix="edgemodel-tflite-") as folder:
        path = Path(folder) / "checked.tflite"
        path.write_bytes(content)
        return _checked_file(onnx, path, feeds, lowered, tolerance, given=given)


def _checked_file(
    onnx: Run, path: Path, feeds: Arrays, lowered: Lowered, tolerance: float, *, given: bool
) -> tuple[Equivalence, tuple[str, ...]]:
    """One sample at a time (or the fixed batch), and some at once where the batch is free; with XNNPACK and without."""
    first = next(iter(lowered.graph.inputs.values()))
    rows = 1 if lowered.free or not first.shape else int(first.shape[0])
    many = {n: a[:ROWS] for n, a in feeds.items()} if lowered.free else {}
    results, notes = [], []
    for delegates in (True, False):
        tflite = isolated_run(path, delegates=delegates)
        try:
            checks = [compare_runs(onnx, tflite, feeds, ran_with=runtime(), rows=rows)]
            if many:
                checks.append(compare_runs(onnx, tflite, many, ran_with=runtime(), rows=ROWS))
        except InputError as error:
            raise InputError(
                f"the TFLite file cannot be run ({error}), so it was not written: take TFLite out of spec.formats"
            ) from None
        results.append(checks[0])
        worst = max(e.max_error for e in checks)
        if not worst <= tolerance and not given:
            moved = min(_sensitivity(onnx, feeds, rows), MAX_SENSITIVITY)
            if moved > tolerance / SENSITIVE:
                tolerance = SENSITIVE * moved
                notes.append(
                    f"rounding moves the ONNX model's own answers by {moved:.2g}, and {tolerance:.2g} was allowed"
                )
        if not worst <= tolerance:
            raise InputError(
                f"the TFLite file disagrees with the ONNX model: relative error {worst:.3g} over"
                f" {counted(results[0].cases, 'row')}, at most {tolerance:.3g} is allowed: it was not written; take"
                " TFLite out of spec.formats, or choose another encoding"
            )
    return results[0], tuple(notes)


def _sensitivity(onnx: Run, feeds: Arrays, rows: int) -> float:
    """How far the ONNX model's own answers move when its float inputs move by a few roundings (1e-6 of each)."""
    rng = np.random.default_rng(0)
    moved = {
        n: (a.astype(np.float64) * (1 + 1e-6 * rng.standard_normal(a.shape))).astype(a.dtype)
        if a.dtype.kind == "f"
        else a
        for n, a in feeds.items()
    }
    return compare_outputs(
        run_cases(onnx, moved, rows=rows), run_cases(onnx, feeds, rows=rows), min(len(a) for a in feeds.values())
    ).error

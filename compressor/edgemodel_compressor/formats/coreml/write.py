"""Writing a Core ML package from an ONNX model, and checking what was written.

What is checked, on any machine: the package is read back; the uncompressed program is run by the interpreter beside
onnxruntime; compressed weights are unpacked and compared with the uncompressed ones, each within what its encoding
may lose, and the rest of the program must be the same. So an error of the conversion cannot hide behind the loss of
the compression, which is reported and left to the quality gate. It is not run on Core ML, which only Apple's systems
have.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted
from edgemodel_api.reasons import NOT_SUPPORTED
from edgemodel_compressor.evaluate.runner import Arrays, Run, runner
from edgemodel_compressor.formats.equivalence import Equivalence, compare_answers
from edgemodel_compressor.formats.onnx_model import open_session
from edgemodel_oci.golden import run_cases

from . import compress
from .build import TARGET, Built, build
from .interpret import RAN_WITH, decompressed
from .library import coremltools, quiet
from .lower import LOWERINGS
from .mil import Array
from .package import read_package, write_package
from .prepare import WRITTEN_OUT, Port, Shapes
from .program import MilProgram, decode
from .session import SIGNATURE, End, open_run, signature_text

FLOAT32, FLOAT16 = "float32", "float16"
INT8_WEIGHTS, SPARSE = "int8-weights", "sparse"
PALETTIZED = {f"palettized-{bits}": bits for bits in (8, 6, 4, 2)}
#: What a package can hold its weights in.
ENCODINGS = (FLOAT32, FLOAT16, INT8_WEIGHTS, *PALETTIZED, SPARSE)
#: ONNX operator → what of it is converted; empty: all. The coverage table is made of it.
OPS = {
    **{name: lowering.note for name, lowering in LOWERINGS.items()},
    **dict.fromkeys(WRITTEN_OUT, "as the operators that ONNX defines it by"),
    "If": "with a constant condition",
}
#: Largest mean relative error of the uncompressed program, by the type that it computes in.
TOLERANCE = {FLOAT32: 1e-4, FLOAT16: 2e-2}
#: Relative rounding of half precision, and its smallest step.
_HALF, _HALF_STEP = 2.0**-10, 2.0**-23
#: About the rounding of a sum of hundreds of products in single precision; and how much of its effect is let pass.
_NUDGE, _NOISE_FACTOR = 1e-6, 4.0
#: Rows that the check runs at most, and random ones where none are given.
_MAX_CASES, _CASES, _SEED = 32, 2, 0


@dataclass(frozen=True)
class Converted:
    """A written package.

    Attributes:
        path: of the zip.
        encoding: one of `ENCODINGS`.
        compute: float32 or float16: what the program computes in.
        notes: what was decided and found, in words.
        size_bytes: of the zip.
        check: how it agreed with the ONNX model, by the interpreter.
    """

    path: Path
    encoding: str
    compute: str
    notes: tuple[str, ...]
    size_bytes: int
    check: Equivalence


def unsupported(model: Any, feeds: Arrays | None = None, *, shapes: Shapes | None = None) -> tuple[str, ...]:
    """What cannot be converted, each as "node NAME (Op): why"; empty: everything can.

    Args:
        model: a ModelProto that passed the loader's checks.
        feeds: some rows, for models whose inputs have free axes besides the batch.
        shapes: the same, by input name.

    Raises:
        InputError: coremltools is missing, or an input cannot be one of Core ML's.
    """
    return build(model, feeds=feeds, shapes=shapes).problems


def convert(
    model: Any,
    dest: Path,
    *,
    encoding: str = FLOAT16,
    compute: str | None = None,
    feeds: Arrays | None = None,
    shapes: Shapes | None = None,
    tolerance: float | None = None,
) -> Converted:
    """Write an `.mlpackage` as one zip (`package`), for iOS 16, macOS 13 and later.

    Args:
        model: a ModelProto that passed the loader's checks.
        dest: the file, usually `*.mlpackage.zip`; it appears whole or not at all.
        encoding: one of `ENCODINGS`. `sparse` stores the zeros that the model has.
        compute: float32 or float16; None: float32 for the encoding float32, else float16, and float32 where that is
            not close enough (which the notes say).
        feeds: rows to check the file with (at most 32 are run), first axis = rows; they also fix free axes. None:
            random ones.
        shapes: sizes of free axes, by input name.
        tolerance: instead of `TOLERANCE`.

    Raises:
        InputError: nodes that cannot be converted (all of them are named); the written package disagrees with the
            ONNX model.
    """
    if encoding not in ENCODINGS:
        raise InputError(f"Core ML encoding {encoding!r} is unknown: choose one of {', '.join(ENCODINGS)}")
    if compute not in (None, FLOAT32, FLOAT16):
        raise InputError(f"compute {compute!r} is unknown: choose {FLOAT32} or {FLOAT16}")
    if encoding in (FLOAT32, FLOAT16) and compute not in (None, encoding):
        raise InputError(f"the encoding {encoding} computes in {encoding}, not in {compute}")
    built = build(model, feeds=feeds, shapes=shapes)
    if built.problems:
        raise InputError(_listed(built.problems), reason=NOT_SUPPORTED)
    cases = _Cases.of(model, built, feeds, tolerance)
    first = compute or (FLOAT32 if encoding == FLOAT32 else FLOAT16)
    try:
        return _written(built, dest, encoding, first, cases)
    except _TooFarError as error:
        if compute is not None or first == FLOAT32 or encoding == FLOAT16:
            raise
        # A program is used up by its conversion.
        built = build(model, feeds=feeds, shapes=shapes)
        done = _written(built, dest, encoding, FLOAT32, cases)
        why = f"It computes in float32: in float16 its answers are off by {error.error:.2g}"
        return replace(done, notes=(*done.notes, why))


class _TooFarError(InputError):
    """The written program's answers are not the ONNX model's."""

    def __init__(self, error: float, limit: float, compute: str) -> None:
        more = f"; encode as {FLOAT32}" if compute == FLOAT16 else "; report it with the model"
        super().__init__(
            f"the Core ML program ({compute}) answers otherwise than the ONNX model: relative error {error:.3g}, allowed"
            f" {limit:g}{more}",
            reason=NOT_SUPPORTED,
        )
        self.error = error


@dataclass(frozen=True)
class _Cases:
    """Rows, and onnxruntime's answers to them.

    Attributes:
        feeds: by ONNX name.
        rows: of one run; None: the feeds as they are, in one run.
        answers: by ONNX name.
        tolerance: instead of `TOLERANCE`.
        onnx: onnxruntime.
    """

    feeds: Arrays
    rows: int | None
    answers: Arrays
    tolerance: float | None
    onnx: Run

    def noise(self) -> float:
        """How far onnxruntime's own answers move with the float inputs' last digits."""
        rng = np.random.default_rng(_SEED)
        moved = {
            name: (a.astype(np.float64) * (1 + _NUDGE * rng.standard_normal(a.shape))).astype(a.dtype)
            if a.dtype.kind == "f"
            else a
            for name, a in self.feeds.items()
        }
        return compare_answers(
            _answers(self.onnx, moved, self.rows), self.answers, self.count, ran_with=RAN_WITH
        ).max_error

    @property
    def count(self) -> int:
        """Number of cases."""
        return 1 if self.rows is None else min(len(a) for a in self.feeds.values()) // self.rows

    @classmethod
    def of(cls, model: Any, built: Built, feeds: Arrays | None, tolerance: float | None) -> _Cases:
        """The given feeds, or random ones."""
        ports = built.prepared.inputs
        given = {p.onnx_name: np.asarray(feeds[p.onnx_name]) for p in ports} if feeds and ports else _random(ports)
        rows = _rows(ports, given)
        if rows is not None:
            given = {name: a[: max(_MAX_CASES // rows, 1) * rows] for name, a in given.items()}
        onnx = runner(open_session(model.SerializeToString()))
        return cls(given, rows, _answers(onnx, given, rows), tolerance, onnx)

    def judge(self, path: Path) -> Equivalence:
        """The package at `path`, by the interpreter."""
        got = _answers(open_run(path), self.feeds, self.rows)
        return compare_answers(got, self.answers, self.count, ran_with=RAN_WITH)


def _answers(run: Run, feeds: Arrays, rows: int | None) -> Arrays:
    return run(feeds) if rows is None else run_cases(run, feeds, rows=rows)


def _rows(ports: Iterable[Port], feeds: Arrays) -> int | None:
    """Of one run, where all inputs have rows of the same number."""
    if not all(p.shape for p in ports) or not feeds:
        return None
    sizes = {int(p.shape[0] or 1) for p in ports}
    counts = {len(feeds[p.onnx_name]) for p in ports}
    return sizes.pop() if len(sizes) == 1 and len(counts) == 1 else None


def _random(ports: Iterable[Port]) -> Arrays:
    """Normal floats, small integers (they may be indices), both booleans; the same each time."""
    rng = np.random.default_rng(_SEED)
    found: Arrays = {}
    for port in ports:
        shape = [int(d or 1) for d in port.shape]
        if port.batch:
            shape[0] = _CASES
        if port.dtype.kind in "iub":
            found[port.onnx_name] = rng.integers(0, 2, shape).astype(port.dtype)
        else:
            found[port.onnx_name] = rng.standard_normal(shape).astype(port.dtype)
    return found


def _written(built: Built, dest: Path, encoding: str, compute: str, cases: _Cases) -> Converted:
    with tempfile.TemporaryDirectory(prefix="coreml-") as folder:
        whole = Path(folder) / "whole.zip"
        model = _mil_model(built, compute, Path(folder) / "whole.mlpackage")
        size = _save(model, built, whole)
        check = cases.judge(whole)
        notes = list(built.notes)
        limit = TOLERANCE[compute] if cases.tolerance is None else cases.tolerance
        if not check.max_error <= limit:
            noise = cases.noise() if compute == FLOAT32 and cases.tolerance is None else 0.0
            if not check.max_error <= _NOISE_FACTOR * noise:
                raise _TooFarError(check.max_error, max(limit, _NOISE_FACTOR * noise), compute)
            notes.append(
                f"The model is sensitive to rounding: inputs changed by {_NUDGE:g} of themselves change onnxruntime's own"
                f" answers by {noise:.2g}, so that an error of {check.max_error:.2g} is no sign of a wrong conversion"
            )
        kept = whole
        if encoding not in (FLOAT32, FLOAT16):
            kept = Path(folder) / "small.zip"
            with quiet():
                size = _save(_compressed(model, built, encoding), built, kept)
            notes += _checked_weights(whole, kept, encoding)
            check = cases.judge(kept)
            if not np.isfinite(check.max_error):
                raise _TooFarError(check.max_error, float(np.finfo(np.float32).max), compute)
        content = kept.read_bytes()
    from edgemodel_oci.files import put, replacing

    with replacing(dest) as file:
        put(file, content, dest)
    return Converted(dest, encoding, compute, tuple(notes), size, check)


def _mil_model(built: Built, compute: str, folder: Path) -> Any:
    """The program as coremltools has it: an MLModel."""
    ct = coremltools()
    precision = ct.precision.FLOAT16 if compute == FLOAT16 else ct.precision.FLOAT32
    try:
        with quiet():
            return ct.convert(
                built.program,
                convert_to="mlprogram",
                compute_precision=precision,
                minimum_deployment_target=ct.target[TARGET],
                skip_model_load=True,
                package_dir=str(folder),
            )
    except Exception as error:  # coremltools raises many types of its own
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise InputError(
            f"coremltools {ct.__version__} cannot make an ML program of the model ({line}): take CoreML out of"
            " spec.formats, or report it with the model",
            reason=NOT_SUPPORTED,
        ) from None


def _compressed(model: Any, built: Built, encoding: str) -> Any:
    if encoding == INT8_WEIGHTS:
        return compress.int8_weights(model, built.exact)
    if encoding == SPARSE:
        return compress.sparse(model, built.exact)
    return compress.palettized(model, built.exact, PALETTIZED[encoding])


def _save(model: Any, built: Built, dest: Path) -> int:
    """With our metadata instead of coremltools', which has the day in it."""
    spec = type(model.get_spec())()
    spec.CopyFrom(model.get_spec())
    metadata = spec.description.metadata
    metadata.userDefined.pop("com.github.apple.coremltools.conversion_date", None)
    metadata.userDefined[SIGNATURE] = signature_text(*_ends(spec, built))
    weights = Path(model.weights_dir or "") / "weight.bin"
    return write_package(spec, weights.read_bytes() if model.weights_dir and weights.exists() else b"", dest)


def _ends(spec: Any, built: Built) -> tuple[list[End], list[End]]:
    shapes = {d.name: tuple(int(s) for s in d.type.multiArrayType.shape) for d in spec.description.output}
    prepared = built.prepared
    inputs = [_end(p, tuple(int(d or 1) for d in p.shape) or (1,)) for p in prepared.inputs]
    outputs = [_end(p, () if p.name in built.scalars else shapes.get(p.name, ())) for p in prepared.outputs]
    return inputs, outputs


def _end(port: Port, shape: tuple[int, ...]) -> End:
    return End(port.onnx_name, port.name, port.dtype.name, shape, port.batch)


def _checked_weights(whole: Path, small: Path, encoding: str) -> list[str]:
    """Unpacked weights beside the uncompressed ones.

    Raises:
        InputError: a weight is further off than its encoding allows, or the programs differ otherwise.
    """
    before, after = decode(read_package(whole)), decode(read_package(small))
    # In any order: independent operations change places.
    if sorted(_layers(before)) != sorted(_layers(after)):
        raise InputError("compressing the weights changed the program: report it with the model", reason=NOT_SUPPORTED)
    old, new = before.constants(), decompressed(after)
    packed = [o for o in after.operations if o.kind.startswith("constexpr_")]
    elements = count = 0
    for operation in packed:
        name = operation.outputs[0].name
        source = _source(name, old)
        _check_weight(name, old[source].astype(np.float64), new[name].astype(np.float64), operation, encoding)
        elements += old[source].size
        count += 1
    total = sum(v.size for v in old.values() if v.dtype.kind == "f")
    words = {INT8_WEIGHTS: "as INT8, one scale a channel", SPARSE: "stored sparse"}
    what = words.get(encoding, f"as palettes of {2 ** PALETTIZED.get(encoding, 0)} values")
    return [f"{counted(count, 'weight')} ({elements / max(total, 1):.0%} of the numbers) {what}"]


def _layers(program: MilProgram) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """What is computed at run time: kinds, outputs, and which of them each one reads."""
    computed = {i.name for i in program.inputs} | {
        t.name
        for o in program.operations
        if o.kind != "const" and not o.kind.startswith("constexpr_")
        for t in o.outputs
    }
    return [
        (
            o.kind,
            tuple(t.name for t in o.outputs),
            tuple(b for name in sorted(o.inputs) for b in o.inputs[name] if isinstance(b, str) and b in computed),
        )
        for o in program.operations
        if o.kind != "const" and not o.kind.startswith("constexpr_")
    ]


def _source(name: str, old: dict[str, Array]) -> str:
    for suffix in ("_quantized", "_palettized", "_sparsified"):
        if name.removesuffix(suffix) in old:
            return name.removesuffix(suffix)
    raise InputError(f"weight {name!r} has no counterpart: report it with the model", reason=NOT_SUPPORTED)


def _check_weight(name: str, old: Array, new: Array, operation: Any, encoding: str) -> None:
    if old.shape != new.shape:
        raise InputError(f"weight {name!r}: shape {list(new.shape)} instead of {list(old.shape)}", reason=NOT_SUPPORTED)
    slack = np.abs(old) * _HALF + _HALF_STEP
    if encoding == SPARSE:
        allowed = slack
    elif encoding == INT8_WEIGHTS:
        # The scale is in half precision too, and multiplied by up to 127.
        allowed = _scales(operation, old) * 0.5 + slack + np.abs(new) * _HALF + 64 * _HALF_STEP
    else:
        palette = np.unique(operation.attributes["lut"].astype(np.float64))
        # Clusters were found before their centres were rounded.
        allowed = _nearest(palette, old) + slack + np.abs(palette).max() * _HALF
    worst = float(np.max(np.abs(old - new) - allowed, initial=0.0))
    if worst > 0:
        raise InputError(
            f"weight {name!r}: unpacked values are off by {worst:.3g} more than {encoding} allows: report it with the"
            " model",
            reason=NOT_SUPPORTED,
        )


def _nearest(palette: Array, values: Array) -> Array:
    """Distance of each value to the palette (ascending)."""
    above = np.clip(np.searchsorted(palette, values), 1, max(len(palette) - 1, 1))
    low, high = palette[above - 1], palette[np.minimum(above, len(palette) - 1)]
    return np.asarray(np.minimum(np.abs(values - low), np.abs(values - high)))


def _scales(operation: Any, old: Array) -> Array:
    scale = np.asarray(operation.attributes["scale"], np.float64)
    if scale.ndim == 0:
        return scale
    shape = [1] * old.ndim
    shape[int(operation.attributes["axis"])] = -1
    return scale.reshape(shape)


def _listed(problems: tuple[str, ...]) -> str:
    shown = "; ".join(problems[:10])
    more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
    return (
        f"Core ML: {counted(len(problems), 'node')} cannot be converted: {shown}{more}; take CoreML out of spec.formats, or"
        f" export the model without {'it' if len(problems) == 1 else 'them'}"
    )

"""Golden cases: the file format, how a model is fed with them, and how its answers are judged.

Both ends use this one module (the compressor writes and measures, the node checks), so that they cannot disagree.
It needs numpy, which the other modules of this package do not.

`golden.npz` is an uncompressed zip of `.npy` members, in the model's order: `input:NAME` and `output:NAME`, first axis
= rows. A *case* is one row, fed alone (a model with a fixed batch of N is fed N rows at a time): dynamically
quantized models answer otherwise when other rows share the batch, so both ends must cut alike. Use `run_cases`.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgemodel_api.artifact import GOLDEN_INPUT_PREFIX, GOLDEN_OUTPUT_PREFIX, Golden
from edgemodel_api.errors import InputError

Array = npt.NDArray[np.generic]
Arrays = dict[str, Array]

#: Norms below this count as this: an all-zero answer of the source must not divide by zero.
NORM_FLOOR = 1e-12
#: Share of the usual norm of the source's answers below which an answer is nothing: what it is off by is noise, which
#: differs from CPU to CPU. (A detector that finds nothing answers with numbers near 0.)
NOTHING = 1e-3
#: The most that a node expands from a golden file (256 KiB, where one case is not larger than that).
LOAD_LIMIT_BYTES = 64 * 2**20
_MEMBER_LIMIT = 512


@dataclass(frozen=True)
class GoldenScore:
    """How far a model's answers lie from the source's.

    Attributes:
        error: the largest over the outputs of the mean relative error over the cases; `inf` where an output is
            missing, has another shape, or holds a NaN or infinity that the source's answer does not hold.
        agreement: share of equal arg max, in [0, 1]; None where the first output is not a classifier's.
    """

    error: float
    agreement: float | None

    def passes(self, golden: Golden) -> bool:
        """Whether both limits hold."""
        enough = golden.min_agreement is None or (self.agreement or 0.0) >= golden.min_agreement - 1e-9
        return self.error <= golden.max_error and enough


def load_golden(npz_path: str | os.PathLike[str]) -> tuple[Arrays, Arrays, int]:
    """The inputs, the source's outputs (both in the model's order), and the number of cases.

    Raises:
        InputError: the file is not a golden file, or expands to more than `LOAD_LIMIT_BYTES`.
    """
    inputs: Arrays = {}
    outputs: Arrays = {}
    try:
        with zipfile.ZipFile(npz_path) as archive:
            _check_size(archive.infolist())
        with np.load(npz_path, allow_pickle=False) as arrays:
            for key in arrays.files:
                if key.startswith(GOLDEN_INPUT_PREFIX):
                    inputs[key.removeprefix(GOLDEN_INPUT_PREFIX)] = arrays[key]
                elif key.startswith(GOLDEN_OUTPUT_PREFIX):
                    outputs[key.removeprefix(GOLDEN_OUTPUT_PREFIX)] = arrays[key]
    except InputError:
        raise
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, MemoryError, NotImplementedError) as error:
        raise InputError(f"the golden file cannot be read ({error}): build the artifact again") from None
    if not inputs or not outputs:
        raise InputError("the golden file holds no inputs or no outputs: build the artifact again")
    rows = {len(a) if a.ndim else 0 for a in inputs.values()}
    if len(rows) != 1 or 0 in rows:
        raise InputError("the golden inputs differ in their number of cases or are empty: build the artifact again")
    return inputs, outputs, rows.pop()


def _check_size(members: list[zipfile.ZipInfo]) -> None:
    size = sum(m.file_size for m in members)
    if size > LOAD_LIMIT_BYTES or len(members) > _MEMBER_LIMIT:
        raise InputError(
            f"the golden file holds {size} bytes in {len(members)} arrays, more than {LOAD_LIMIT_BYTES} bytes"
            f" or {_MEMBER_LIMIT} arrays: build the artifact again"
        )


def case_batches(inputs: Mapping[str, Array], *, rows: int = 1) -> Iterator[Arrays]:
    """Cut the golden inputs into what one run gets: `rows` rows (1, or the model's fixed batch)."""
    cases = min(len(a) for a in inputs.values())
    for start in range(0, cases - rows + 1, rows):
        yield {name: a[start : start + rows] for name, a in inputs.items()}


def join_outputs(parts: list[Arrays]) -> Arrays:
    """Put the answers of the runs together: along the first axis; scalars become a vector."""
    return {name: np.concatenate([np.atleast_1d(p[name]) for p in parts]) for name in (parts[0] if parts else {})}


def run_cases(run: Callable[[Arrays], Arrays], inputs: Mapping[str, Array], *, rows: int = 1) -> Arrays:
    """The model's answers to the golden inputs, cut as both ends must cut them.

    Args:
        run: one inference: named inputs to named outputs.
        inputs: as `load_golden` gives them.
        rows: 1, or the model's batch where that is a fixed number.
    """
    return join_outputs([run(feeds) for feeds in case_batches(inputs, rows=rows)])


def compare(node_outputs: Mapping[str, Array], npz_path: str | os.PathLike[str]) -> GoldenScore:
    """Judge answers against the golden file.

    Raises:
        InputError: the golden file cannot be read.
    """
    _, expected, cases = load_golden(npz_path)
    return compare_outputs(node_outputs, expected, cases)


def compare_outputs(actual: Mapping[str, Array], expected: Mapping[str, Array], cases: int) -> GoldenScore:
    """Judge answers against the source's; the formulas are those of `edgemodel_api.artifact.Golden`.

    Floats: mean over the cases of ‖actual − expected‖₂ / max(‖expected‖₂, 1e-3 · r), r the root mean square of
    ‖expected‖₂ over the cases. Other types (labels, indices, strings), where a distance means nothing: the mean share of
    elements that differ.
    """
    error = 0.0
    for name, want in expected.items():
        got = actual.get(name)
        error = max(error, math.inf if got is None else _output_error(np.asarray(got), want, cases))
    first = next(iter(expected), None)
    agreement = None if first is None else _agreement(actual.get(first), expected[first])
    return GoldenScore(error=error, agreement=agreement)


def classifier_like(output: Array) -> bool:
    """Whether an arg max over the last axis means anything: floats, rank ≥ 2, at least two classes."""
    return bool(np.issubdtype(output.dtype, np.floating) and output.ndim >= 2 and output.shape[-1] >= 2)


def nothing_below(squares: npt.NDArray[np.float64]) -> float:
    """The norm of an answer that is as good as none, from the squared norms of all the source's answers; 0: not known."""
    usual = float(np.sqrt(squares.mean())) if squares.size else 0.0
    return NOTHING * usual if math.isfinite(usual) else 0.0


def case_errors(got: Array, want: Array, cases: int) -> npt.NDArray[np.float64]:
    """The error of each case (one number in all, where the output's length is no multiple of the cases)."""
    if got.shape != want.shape:
        return np.array([math.inf])
    if want.size == 0:
        return np.zeros(1)
    parts = cases if cases > 0 and want.size % cases == 0 else 1
    a, b = got.reshape(parts, -1), want.reshape(parts, -1)
    if not np.issubdtype(want.dtype, np.inexact):
        differ: npt.NDArray[np.float64] = np.asarray(a != b, dtype=np.float64).mean(axis=1)
        return differ
    if not np.issubdtype(got.dtype, np.number):
        return np.array([math.inf])
    x, y = a.astype(np.float64), b.astype(np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.linalg.norm(np.where(same, 0.0, x - y), axis=1)
        norm = np.linalg.norm(np.where(np.isfinite(y), y, 0.0), axis=1)
        relative: npt.NDArray[np.float64] = distance / np.maximum(norm, max(NORM_FLOOR, nothing_below(norm**2)))
    return np.where(np.isnan(relative), math.inf, relative)


def _output_error(got: Array, want: Array, cases: int) -> float:
    return float(case_errors(got, want, cases).mean())


def _agreement(got: Array | None, want: Array) -> float | None:
    if not classifier_like(want):
        return None
    if got is None or got.shape != want.shape:
        return 0.0
    return float((np.argmax(got, axis=-1) == np.argmax(want, axis=-1)).mean())

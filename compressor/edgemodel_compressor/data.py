"""Calibration and validation data: arrays named as the model's inputs, first axis = samples.

The numbers lie in plain files in the work folder and are read a few rows at a time, so memory depends on neither the
number of samples nor their size.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted
from edgemodel_oci.files import writing

from . import fit
from .evaluate.runner import Array, Arrays
from .npz import ArrayHeader, NpzFile, blocks
from .reading import concise
from .tensor_spec import TensorSpec, batch_of

__all__ = ["SYNTHETIC_NOTE", "Dataset", "TensorSpec", "open_dataset", "synthetic"]

#: In one made-up row, at most, where that is ours to choose.
MADE_UP_NUMBERS = 2**22
#: For the report: what is measured on such rows says little.
SYNTHETIC_NOTE = (
    "no data was given: ranges and agreement come from random inputs (floats of mean 0 and variance 1), which are unlike"
    " what the model will see; give data.validation, or at least data.calibration"
)


@dataclass(frozen=True)
class _Column:
    """One array on disk, and the type in which it is handed out."""

    path: Path
    stored: np.dtype[Any]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def rows(self, begin: int, end: int) -> Array:
        """A copy of some rows, in memory."""
        count = math.prod(self.shape[1:])
        flat = np.fromfile(
            self.path, dtype=self.stored, count=(end - begin) * count, offset=begin * count * self.stored.itemsize
        )
        rows = flat.reshape(end - begin, *self.shape[1:])
        return rows if self.stored == self.dtype else rows.astype(self.dtype)


class _Rows(Protocol):
    """Where the rows of one input come from."""

    def rows(self, begin: int, end: int) -> Array:
        """Rows begin … end − 1, in memory; at least one."""


class Dataset:
    """Rows of all inputs, and labels where there are some. Implements `evaluate.runner.Batches`."""

    def __init__(self, columns: Mapping[str, _Rows], *, samples: int, labels: Array | None, note: str | None) -> None:
        self._columns = columns
        self._samples = samples
        self._labels = labels
        #: A sentence for the report where the data is not simply what was given.
        self.note = note

    @property
    def samples(self) -> int:
        """Number of rows."""
        return self._samples

    @property
    def labels(self) -> Array | None:
        """[samples, …], where there are labels; mapped from disk."""
        return self._labels

    def batches(self, size: int) -> Iterator[Arrays]:
        """In order, each with at most `size` rows."""
        for begin in range(0, self._samples, size):
            end = min(self._samples, begin + size)
            yield {name: column.rows(begin, end) for name, column in self._columns.items()}

    def take(self, n: int, seed: int) -> Arrays:
        """`n` rows (or all, if fewer), spread over the data, the same for the same seed: one from each of n stretches."""
        n = max(1, min(n, self._samples))
        edges = [i * self._samples // n for i in range(n + 1)]
        generator = np.random.default_rng(seed)
        chosen = [int(generator.integers(a, b)) for a, b in itertools.pairwise(edges)]
        return self.at(chosen)

    def at(self, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> Arrays:
        """Copies of some rows (at least one), in the order given; neighbours are read together."""
        numbers = np.asarray(rows, dtype=np.int64)
        runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
        pieces = [(int(run[0]), int(run[-1]) + 1) for run in runs]
        return {name: np.concatenate([column.rows(*p) for p in pieces]) for name, column in self._columns.items()}


def open_dataset(
    path: Path,
    inputs: tuple[TensorSpec, ...],
    *,
    labels: str | None,
    work_dir: Path,
    max_bytes: int,
    what: str,
) -> Dataset:
    """Check an npz against the model and lay its arrays out in the work folder.

    Args:
        path: the npz. Arrays that nobody asks for are ignored.
        inputs: of the model; each needs an array of its name.
        labels: name of the label array; None: no labels.
        work_dir: gets the folder `WHAT.arrays`; nothing is left in it after an error.
        max_bytes: of the arrays, unpacked.
        what: "data.calibration" or "data.validation", for messages.

    Raises:
        InputError: missing or misspelt names, shapes, types or counts that do not fit, NaN, hostile archives.
    """
    folder = work_dir / f"{what}.arrays"
    with concise(), NpzFile(path, what=what, max_bytes=max_bytes) as npz:
        wanted = [spec.name for spec in inputs]
        fit.check_names(npz.names, wanted, labels, what)
        headers = {name: npz.header(name) for name in dict.fromkeys([*wanted, *([labels] if labels else [])])}
        for spec in inputs:
            fit.check_shape(headers[spec.name], spec, what)
            fit.check_type(headers[spec.name], spec, what)
        samples = fit.check_counts([headers[n] for n in wanted], headers[labels] if labels else None, what)
        rows, note = fit.whole_batches(inputs, samples, what)
        with _folder(folder):
            columns = {}
            for index, spec in enumerate(inputs):
                header = headers[spec.name]
                file = folder / f"input-{index}.bin"
                npz.extract(header, file)
                dtype = header.dtype.newbyteorder("=") if spec.dtype.kind == "U" else spec.dtype
                column = _Column(file, header.dtype, dtype, header.shape)
                _check_finite(column, spec.name, what)
                columns[spec.name] = column
            return Dataset(
                columns,
                samples=rows,
                labels=_labels(npz, headers[labels], folder, rows, what) if labels else None,
                note=note,
            )


def synthetic(inputs: tuple[TensorSpec, ...], *, samples: int, seed: int) -> Dataset:
    """Made-up rows, for a model without any data: floats from N(0, 1), whole numbers 0 and 1, text of one word.

    Args:
        inputs: of the model.
        samples: number of rows; rounded up to whole batches where the model's batch is fixed.
        seed: of the numbers: the same row is always the same.
    """
    batch = batch_of(inputs)
    return Dataset(
        {spec.name: _Made(spec, place, seed) for place, spec in enumerate(inputs)},
        samples=-(-samples // batch) * batch,
        labels=None,
        note=SYNTHETIC_NOTE,
    )


@dataclass(frozen=True)
class _Made:
    """Rows made when they are asked for, from the seed and their number."""

    spec: TensorSpec
    place: int
    seed: int

    def rows(self, begin: int, end: int) -> Array:
        """A few rows; each depends on its own number only."""
        return np.stack([self._row(index) for index in range(begin, end)])

    def _row(self, index: int) -> Array:
        shape = row_shape(self.spec)
        generator = np.random.default_rng([self.seed, self.place, index])
        kind = self.spec.dtype.kind
        if kind == "f":
            return generator.standard_normal(shape).astype(self.spec.dtype)
        return np.full(shape, "text") if kind == "U" else generator.integers(0, 2, shape).astype(self.spec.dtype)


def row_shape(spec: TensorSpec) -> tuple[int, ...]:
    """Shape of one made-up row: free dimensions are 64 for pictures (rank 4), else 16; less where that is too much."""
    for free in (64, 16, 4, 1) if len(spec.shape) == 4 else (16, 4, 1):
        shape = tuple(free if d is None else d for d in spec.shape[1:])
        if math.prod(shape) <= MADE_UP_NUMBERS:
            break
    return shape


def _check_finite(column: _Column, name: str, what: str) -> None:
    if column.dtype.kind not in "fU":
        return
    row_bytes = math.prod(column.shape[1:]) * max(column.stored.itemsize, column.dtype.itemsize)
    bad, first = 0, 0
    for begin, end in blocks(column.shape[0], row_bytes):
        finite = _is_good(column, begin, end)
        wrong = int(finite.size - np.count_nonzero(finite))
        if wrong and not bad:
            first = begin + int(np.argmin(finite.reshape(end - begin, -1).all(axis=1)))
        bad += wrong
    if bad and column.dtype.kind == "U":
        raise InputError(
            f"{what}: array {name!r} holds {counted(bad, 'character that is', 'characters that are')} none in Unicode"
            f" (first in sample {first}): write the file again"
        )
    if bad:
        raise InputError(
            f"{what}: array {name!r} holds {counted(bad, 'number that is', 'numbers that are')} NaN, infinite or too"
            f" large for {column.dtype.name} (first in sample {first}): clean or drop these samples"
        )


def _is_good(column: _Column, begin: int, end: int) -> npt.NDArray[np.bool_]:
    """Per number (or character) of some rows."""
    with np.errstate(over="ignore"):
        rows = column.rows(begin, end)
        return np.isfinite(rows) if column.dtype.kind == "f" else _is_text(rows)


def _is_text(rows: Array) -> npt.NDArray[np.bool_]:
    """Per character: a code point that UTF-8 can write."""
    codes = np.ascontiguousarray(rows.astype(rows.dtype.newbyteorder("="))).view(np.uint32).reshape(len(rows), -1)
    return (codes <= 0x10FFFF) & ((codes < 0xD800) | (codes > 0xDFFF))


def _labels(npz: NpzFile, header: ArrayHeader, folder: Path, rows: int, what: str) -> Array:
    name = header.name
    file = folder / "labels.bin"
    npz.extract(header, file)
    _check_finite(_Column(file, header.dtype, header.dtype, header.shape), name, f"{what}.labels")
    if header.size_bytes == 0:
        raise InputError(
            f"{what}.labels: array {name!r} has shape {list(header.shape)}: it holds nothing to compare with"
        )
    mapped: Array = np.memmap(file, dtype=header.dtype, mode="r", shape=header.shape)
    return mapped[:rows]


@contextlib.contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """A new folder, which goes again if the block fails."""
    with writing(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise

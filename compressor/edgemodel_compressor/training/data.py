"""What distillation and recovery learn from: rows by number, and labels where there are some.

The rows stay on disk (see `edgemodel_compressor.data`); a step reads its own batch, in the order of a shuffled list
of row numbers, so the training set may be larger than memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted
from edgemodel_compressor.evaluate.runner import Array, Arrays

Rows = npt.NDArray[np.int64]

#: Rows that are read at once where all of them are passed over.
BLOCK_ROWS, BLOCK_BYTES = 256, 32 * 2**20


class RowSource(Protocol):
    """The part of `data.Dataset` that learning needs."""

    @property
    def samples(self) -> int:
        """Number of rows."""

    @property
    def labels(self) -> Array | None:
        """[samples, …], where there are labels."""

    def at(self, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> Arrays:
        """Copies of some rows, in the order given."""


class TrainingSet:
    """Rows of all inputs of the teacher, and what is known of their answers."""

    def __init__(self, source: RowSource, *, output: str | None = None, classes: bool = False) -> None:
        """Of a `Dataset`, opened with the teacher's inputs.

        Args:
            source: the rows; where it has labels, they are learned.
            output: the output that the labels belong to (`data.validation.output`); None: the first.
            classes: whether that output is known to be scores of classes (validation is judged by Top1, TopK or F1):
                then it is taught by soft targets also where there are no labels.

        Raises:
            InputError: there are no rows.
        """
        if source.samples < 1:
            raise InputError("data.training holds no samples: give at least one, better thousands")
        self._source = source
        self.output = output
        self.classes = classes

    @classmethod
    def of(
        cls,
        arrays: Mapping[str, Array],
        *,
        labels: Array | None = None,
        output: str | None = None,
        classes: bool = False,
    ) -> TrainingSet:
        """Of arrays in memory, first axis = samples."""
        return cls(_InMemory(dict(arrays), labels), output=output, classes=classes)

    @property
    def samples(self) -> int:
        """Number of rows."""
        return self._source.samples

    @property
    def labels(self) -> Array | None:
        """[samples, …], where there are labels."""
        return self._source.labels

    def take(self, rows: Rows) -> Arrays:
        """Inputs of some rows, in the order given."""
        return self._source.at(rows)

    def blocks(self, size: int) -> Iterator[tuple[int, Arrays]]:
        """(number of the first row, inputs) of all rows in order, at most `size` at a time."""
        for begin in range(0, self.samples, size):
            yield begin, self.take(np.arange(begin, min(begin + size, self.samples)))

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of everything in it: names, types, shapes, numbers, labels."""
        digest = hashlib.sha256(f"{self.samples} {self.output} {self.classes}".encode())
        row = sum(a.nbytes for a in self.take(np.arange(min(1, self.samples))).values())
        size = max(1, min(BLOCK_ROWS, BLOCK_BYTES // max(1, row)))
        for begin, arrays in self.blocks(size):
            for name in sorted(arrays):
                _add(digest, name, arrays[name])
            if self.labels is not None:
                _add(digest, "", np.asarray(self.labels[begin : begin + size]))
        return digest.hexdigest()


@dataclass(frozen=True)
class Split:
    """Row numbers, without overlap but where there are too few rows.

    Attributes:
        train: what is learned.
        held_out: what epochs are compared by.
        shared: whether both are the same rows.
    """

    train: Rows
    held_out: Rows
    shared: bool


def split(samples: int, *, seed: int, unit: int = 1) -> Split:
    """A tenth of the training data is held out to tell the best epoch. The validation data has no part in learning.

    Args:
        samples: number of rows.
        seed: of the choice.
        unit: rows that the model takes at a time; both parts hold whole units.

    Raises:
        InputError: fewer rows than one unit.
    """
    if samples < unit:
        raise InputError(
            f"the model to train takes {counted(unit, 'sample')} at a time and the training data has {samples}: give"
            " more, or a model with a smaller or free batch"
        )
    order: Rows = np.random.default_rng([seed, 1]).permutation(samples).astype(np.int64)
    held = max(samples // 10 // unit, 1) * unit
    # So few that nothing would be left to learn, or one row would judge: all rows do both.
    if samples < 10 or samples - held < unit:
        rows = np.sort(order[: samples // unit * unit])
        return Split(rows, rows, shared=True)
    return Split(np.sort(order[held:]), np.sort(order[:held]), shared=False)


class _InMemory:
    """`RowSource` over arrays."""

    def __init__(self, arrays: Arrays, labels: Array | None) -> None:
        sizes = {len(a) for a in (*arrays.values(), *(() if labels is None else (labels,)))}
        if len(sizes) > 1:
            raise InputError(f"arrays of {sorted(sizes)} samples: give one row of each input (and label) a sample")
        self.samples = sizes.pop() if sizes else 0
        self.labels = labels
        self._arrays = arrays

    def at(self, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> Arrays:
        return {name: a[np.asarray(rows)] for name, a in self._arrays.items()}


def _add(digest: Any, name: str, array: Array) -> None:
    whole = np.ascontiguousarray(array)
    digest.update(f"{name} {whole.dtype.str} {whole.shape}".encode())
    digest.update(whole.tobytes())

"""What the teacher says of the training rows, by onnxruntime: so a teacher may have operators that cannot be learned.

Without random changes of the rows the answers are the same in each epoch: they are computed once, into a file, and
those that would take too much room on disk are computed again for each batch.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from edgemodel_api.errors import InputError
from edgemodel_api.job import Progress
from edgemodel_api.quantities import counted
from edgemodel_compressor.evaluate.runner import Array, Arrays, Run, batch_rows, most_rows, runner
from edgemodel_compressor.formats.onnx_model import open_session
from edgemodel_compressor.formats.signature import fixed_batch, inputs_of
from edgemodel_compressor.progress import Report
from edgemodel_oci.files import put, writing

from .data import BLOCK_ROWS, Rows, TrainingSet
from .heads import with_outputs
from .room import Room

Floats = npt.NDArray[np.float32]

#: Of the file of answers.
CACHE_BYTES = 2**30
#: Of one run.
ANSWERS_BYTES = 16 * 2**20
#: Rows whose answers give the variance that errors are measured by.
VARIANCE_ROWS = 512


@dataclass(frozen=True)
class Wanted:
    """One kind of answer.

    Attributes:
        tensor: the teacher's.
        read: its values → float32 [rows, …].
    """

    tensor: str
    read: Callable[[Array], Floats]


class Answers:
    """Answers by name, for any rows of the training set."""

    def __init__(self, teacher: Any, wanted: Mapping[str, Wanted], data: TrainingSet, *, rows: int) -> None:
        """Runs the teacher over some rows.

        Args:
            teacher: ModelProto.
            wanted: what to ask it, by names of the caller's.
            data: the rows.
            rows: that the teacher gets at a time.

        Raises:
            InputError: the teacher fails, or answers NaN, or with another number of rows.
        """
        self._wanted, self._data = dict(wanted), data
        self._run = model_runner(with_outputs(teacher, [w.tensor for w in wanted.values()])) if wanted else None
        self._unit = rows
        self._shapes: dict[str, tuple[int, ...]] = {}
        if wanted and fixed_batch(inputs_of(teacher.graph)) is None:
            # What it says within may be larger than what a run without that takes.
            self._unit = 1
            (one,) = self._asked(spread(data.samples, 1), list(self._wanted))
            self._unit = max(1, min(rows, ANSWERS_BYTES // max(1, sum(a.nbytes for a in one.values()))))
        moments = {name: _Moments() for name in self._wanted}
        for answers in self._asked(spread(data.samples, VARIANCE_ROWS), list(self._wanted)) if wanted else ():
            for name, some in answers.items():
                moments[name].add(some)
        #: By name: mean squared deviation from the mean row, of some rows; never 0.
        self.variance = {name: found.variance() for name, found in moments.items()}
        self._files: dict[str, Floats] = {}
        self._open: dict[str, BinaryIO] = {}

    def at(self, rows: Rows) -> dict[str, Floats]:
        """Answers for some rows, in the order given."""
        found = {name: np.asarray(file[rows]) for name, file in self._files.items()}
        if len(found) < len(self._wanted):
            rest = [name for name in self._wanted if name not in found]
            parts = list(self._asked(rows, rest))
            found |= {name: np.concatenate([p[name] for p in parts]) for name in rest}
        return found

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one row's answer."""
        return self._shapes[name]

    def keep(self, work_dir: Path, report: Report) -> None:
        """Run the teacher over all rows, once; without it, each row is asked for when it is wanted.

        Args:
            work_dir: gets the file.
            report: gets the progress.

        Raises:
            InputError: the teacher fails, or answers NaN, or with another number of rows; the disk refuses.
        """
        samples, room = self._data.samples, CACHE_BYTES
        chosen = []
        for name, shape in self._shapes.items():
            size = samples * math.prod(shape) * 4
            if size and size <= room:
                chosen.append(name)
                room -= size
        if not chosen:
            return
        with writing(work_dir):
            work_dir.mkdir(parents=True, exist_ok=True)
        for name in chosen:
            # Without a name: nothing stays when the process is killed, and two of them cannot meet.
            with writing(work_dir):
                self._open[name] = tempfile.TemporaryFile(dir=work_dir)  # noqa: SIM115  as long as the mapping
        for begin in range(0, samples, BLOCK_ROWS):
            end = min(begin + BLOCK_ROWS, samples)
            for answers in self._asked(np.arange(begin, end), chosen):
                for name, some in answers.items():
                    put(self._open[name], some.tobytes(), work_dir)
            report(Progress(stage="teacher", done=end, total=samples))
        for name in chosen:
            with writing(work_dir):
                self._open[name].flush()
            shape = (samples, *self._shapes[name])
            self._files[name] = np.memmap(self._open[name], dtype=np.float32, mode="r", shape=shape)

    def close(self) -> None:
        """Give the room on disk back."""
        self._files.clear()
        for file in self._open.values():
            file.close()

    def _asked(self, rows: Rows, names: Sequence[str]) -> Iterator[dict[str, Floats]]:
        """As many rows at a time as fit; answers of hidden layers are large."""
        for begin in range(0, len(rows), self._unit):
            some = rows[begin : begin + self._unit]
            # A model with a fixed batch gets its last row again, instead of too few.
            padded = np.concatenate([some, np.repeat(some[-1:], self._unit - len(some))])
            assert self._run is not None
            says = self._run(self._data.take(padded))
            found = {}
            for name in names:
                answer = self._wanted[name].read(says[self._wanted[name].tensor])
                if answer.ndim == 0 or len(answer) != len(padded):
                    raise InputError(
                        f"the teacher's tensor {self._wanted[name].tensor!r} has shape {list(answer.shape)} for"
                        f" {counted(len(padded), 'sample')}: its first axis must be the samples"
                    )
                if self._shapes.setdefault(name, answer.shape[1:]) != answer.shape[1:]:
                    raise InputError(
                        f"the teacher's tensor {self._wanted[name].tensor!r} has other shapes for other samples: a student can"
                        " only learn answers of one shape"
                    )
                found[name] = np.ascontiguousarray(answer[: len(some)])
            yield found


def model_runner(model: Any) -> Run:
    """A model in memory, by onnxruntime."""
    return runner(open_session(model.SerializeToString(deterministic=True)))


def rows_at_once(run: Run, model: Any, data: TrainingSet, room: Room) -> tuple[int, int]:
    """(how many rows say what there is to say, how many one run gets).

    The first is the model's fixed batch, or as many as answer together as they do apart; it hangs on model and data alone. The
    second is less where fewer fit into memory.
    """
    fixed, batches = fixed_batch(inputs_of(model.graph)), _Batches(data)
    # Two show as well as more whether rows can be joined.
    together = batch_rows(run, batches, fixed=fixed, most=max(2, room.rows))
    if fixed is not None or together == 1:
        return together, together
    return most_rows(batches), max(1, min(room.rows, together))


def in_parts(run: Run, rows: Arrays, at_once: int) -> Iterator[Arrays]:
    """Answers for rows, so many at a time."""
    count = min(len(a) for a in rows.values())
    for begin in range(0, count, at_once):
        yield run({name: a[begin : begin + at_once] for name, a in rows.items()})


def spread(samples: int, count: int) -> Rows:
    """At most `count` row numbers, evenly over all."""
    count = min(count, samples)
    return (np.arange(count) * samples // count).astype(np.int64)


@dataclass(frozen=True)
class _Batches:
    """A training set as measuring wants it."""

    data: TrainingSet

    @property
    def samples(self) -> int:
        return self.data.samples

    @property
    def labels(self) -> Array | None:
        return self.data.labels

    def batches(self, size: int) -> Iterator[Arrays]:
        for _, arrays in self.data.blocks(size):
            yield arrays

    def take(self, n: int, seed: int) -> Arrays:
        return self.data.take(spread(self.samples, n))


class _Moments:
    """Mean squares of rows, and of how far they are from the mean row; rows come in parts (Chan et al. 1979)."""

    def __init__(self) -> None:
        self._rows = 0
        self._size = 0
        self._mean: npt.NDArray[np.float64] | float = 0.0
        self._deviations = self._squares = 0.0

    def add(self, rows: Floats) -> None:
        """Some rows more."""
        numbers = rows.astype(np.float64)
        count, mean = len(numbers), numbers.mean(axis=0)
        self._squares += float(np.square(numbers).sum())
        numbers -= mean
        apart = float(np.square(mean - self._mean).sum())
        self._deviations += float(np.square(numbers).sum()) + apart * self._rows * count / (self._rows + count)
        self._mean = self._mean + (mean - self._mean) * (count / (self._rows + count))
        self._rows += count
        self._size += numbers.size

    def variance(self) -> float:
        """Over all numbers; of one row, or answers that never change, their own mean square; never 0."""
        if not self._size:
            return 1e-6
        deviation = self._deviations / self._size
        return deviation if deviation > 1e-12 else max(self._squares / self._size, 1e-6)

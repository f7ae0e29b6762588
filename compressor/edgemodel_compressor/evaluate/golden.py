"""Golden cases: chosen and written here, judged by `edgemodel_oci.golden` on both ends.

At most 32 cases and 256 KiB, so that every node can afford them; where one case alone is larger (a picture), two
cases. The file is the same for all variants of a revision and depends on the inputs and the source only. Each variant
has its own limits: twice the error that was measured here, at least 1e-3, and twice the disagreement, at least one
case. So a node passes that computes as this machine does, and one that does not is found out.
"""

from __future__ import annotations

import io
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgemodel_api.artifact import GOLDEN_FILE, GOLDEN_INPUT_PREFIX, GOLDEN_OUTPUT_PREFIX, Golden
from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted
from edgemodel_oci.golden import LOAD_LIMIT_BYTES, GoldenScore, compare_outputs, run_cases

from .runner import Array, Arrays, Batches, Run

MAX_CASES = 32
MAX_BYTES = 256 * 2**10
LEAST_ERROR = 1e-3
#: Headers of the zip and of each array.
_MEMBER_OVERHEAD = 512


@dataclass(frozen=True)
class GoldenSet:
    """Cases on disk, and in memory for judging candidates.

    Attributes:
        path: golden.npz.
        inputs: as the model takes them, first axis = rows.
        outputs: the source's answers.
        rows: of one run (1, or the model's fixed batch).
    """

    path: Path
    inputs: Arrays
    outputs: Arrays
    rows: int

    @property
    def cases(self) -> int:
        """Rows of the inputs."""
        return len(next(iter(self.inputs.values())))

    def score(self, model: Run) -> GoldenScore:
        """How far a candidate's answers lie from the source's."""
        answers = {name: _plain(a) for name, a in run_cases(model, self.inputs, rows=self.rows).items()}
        return compare_outputs(answers, self.outputs, self.cases)

    def limits(self, score: GoldenScore, *, tolerance: float | None = None) -> Golden:
        """What nodes hold this candidate to.

        Args:
            score: measured here.
            tolerance: `healthCheck.golden.tolerance` as a fraction: takes the place of the derived error limit.
        """
        disagreement = None if score.agreement is None else 1 - score.agreement
        return Golden(
            cases=self.cases,
            max_error=tolerance if tolerance is not None else max(LEAST_ERROR, _ceil(2 * score.error)),
            min_agreement=None
            if disagreement is None
            else max(0.0, math.floor((1 - max(2 * disagreement, 1 / self.cases)) * 1e4) / 1e4),
        )


def build_golden(source: Run, data: Batches, *, rows: int, dest_dir: Path, seed: int) -> GoldenSet:
    """Choose cases, let the source answer them, write `golden.npz` (same inputs: same bytes).

    Args:
        source: the source model.
        data: validation data, else calibration data, else synthetic.
        rows: 1, or the model's fixed batch.
        dest_dir: where the file goes.
        seed: of the choice.

    Raises:
        InputError: fewer rows than one case needs, cases too large for a node to load, or the source fails on them.
    """
    if data.samples < rows:
        raise InputError(
            f"the model takes {counted(rows, 'sample')} at a time and the data has {data.samples}: give more"
        )
    first = data.take(rows, seed)
    answer = run_cases(source, first, rows=rows)
    size = sum(a.nbytes for a in (*first.values(), *map(_plain, answer.values())))
    room = MAX_BYTES - _MEMBER_OVERHEAD * (len(first) + len(answer))
    wanted = max(room // max(1, size), 2 if 3 * size < LOAD_LIMIT_BYTES else 1)
    if size >= LOAD_LIMIT_BYTES:
        raise InputError(
            f"one request and its answer take {size} bytes; golden cases may take {LOAD_LIMIT_BYTES} at most"
        )
    count = max(1, min(MAX_CASES // rows, wanted, data.samples // rows)) * rows
    inputs = {name: np.ascontiguousarray(a) for name, a in data.take(count, seed).items()}
    outputs = {name: _plain(a) for name, a in run_cases(source, inputs, rows=rows).items()}
    path = dest_dir / GOLDEN_FILE
    path.write_bytes(npz_bytes(inputs, outputs))
    return GoldenSet(path, inputs, outputs, rows)


def npz_bytes(inputs: Arrays, outputs: Arrays) -> bytes:
    """An uncompressed npz without time stamps: `numpy.savez` writes those of today."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for prefix, arrays in ((GOLDEN_INPUT_PREFIX, inputs), (GOLDEN_OUTPUT_PREFIX, outputs)):
            for name, array in arrays.items():
                member = zipfile.ZipInfo(f"{prefix}{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
                member.create_system = 3
                member.external_attr = 0o600 << 16
                content = io.BytesIO()
                np.lib.format.write_array(content, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
                archive.writestr(member, content.getvalue())
    return buffer.getvalue()


def _ceil(value: float) -> float:
    """Up to two significant digits: noise in the last bits must not change the artifact."""
    if value <= 0 or not math.isfinite(value):
        return value
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.2g}")


def _plain(array: Array) -> Array:
    return array.astype(str) if array.dtype == object else array

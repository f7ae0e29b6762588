"""How far a TFLite file's answers are from those of the ONNX model that it was made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgemodel_compressor.evaluate.runner import Arrays, Run, runner
from edgemodel_oci.golden import compare_outputs, run_cases

from .run import open_run, runtime


@dataclass(frozen=True)
class Equivalence:
    """Numbers for a row of the report.

    Attributes:
        ran_with: the runtime.
        cases: rows that were compared.
        max_error: the largest over the outputs of the mean over the cases of ‖tflite − onnx‖₂ / ‖onnx‖₂.
        agreement: share of equal arg max; None where the first output is no classifier's.
    """

    ran_with: str
    cases: int
    max_error: float
    agreement: float | None


def compare(onnx_path: Path, tflite_path: Path, feeds: Arrays, *, rows: int = 1) -> Equivalence:
    """Run both on the same rows.

    Args:
        onnx_path: the ONNX file.
        tflite_path: the file that was made of it.
        feeds: golden inputs, first axis = rows.
        rows: of one run (1, or the model's fixed batch).

    Raises:
        InputError: one of them cannot run.
    """
    from edgemodel_compressor.formats.onnx_model import open_session

    return compare_runs(runner(open_session(onnx_path)), open_run(tflite_path), feeds, rows=rows)


def compare_runs(onnx: Run, tflite: Run, feeds: Arrays, *, rows: int = 1) -> Equivalence:
    """As `compare`, of two functions."""
    wanted = run_cases(onnx, feeds, rows=rows)
    got = run_cases(tflite, feeds, rows=rows)
    cases = min(len(a) for a in feeds.values())
    score = compare_outputs(got, wanted, cases)
    return Equivalence(runtime(), cases, score.error, score.agreement)

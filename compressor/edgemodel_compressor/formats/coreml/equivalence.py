"""How far an .mlpackage's answers, as the interpreter computes them, are from those of the ONNX model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgemodel_compressor.evaluate.runner import Arrays, Run, runner
from edgemodel_oci.golden import compare_outputs, run_cases

from .interpret import RAN_WITH
from .session import open_run


@dataclass(frozen=True)
class Equivalence:
    """Numbers for a row of the report (`report.Conversion`).

    Attributes:
        ran_with: the interpreter; not Core ML.
        cases: rows that were compared.
        max_error: the largest over the outputs of the mean over the cases of ‖coreml − onnx‖₂ / ‖onnx‖₂.
        agreement: share of equal arg max; None where the first output is no classifier's.
    """

    ran_with: str
    cases: int
    max_error: float
    agreement: float | None


def compare(onnx_path: Path, package: Path, feeds: Arrays, *, rows: int = 1) -> Equivalence:
    """Run both on the same rows.

    Args:
        onnx_path: the ONNX file.
        package: what was made of it.
        feeds: golden inputs, first axis = rows.
        rows: of one run (1, or the model's fixed batch).

    Raises:
        InputError: one of them cannot run.
    """
    from edgemodel_compressor.formats.onnx_model import open_session

    return compare_runs(runner(open_session(onnx_path)), open_run(package), feeds, rows=rows)


def compare_runs(onnx: Run, coreml: Run, feeds: Arrays, *, rows: int = 1) -> Equivalence:
    """As `compare`, of two functions."""
    wanted = run_cases(onnx, feeds, rows=rows)
    return compare_answers(run_cases(coreml, feeds, rows=rows), wanted, min(len(a) for a in feeds.values()))


def compare_answers(got: Arrays, wanted: Arrays, cases: int) -> Equivalence:
    """As `compare`, of answers."""
    score = compare_outputs(got, wanted, cases)
    return Equivalence(RAN_WITH, cases, score.error, score.agreement)

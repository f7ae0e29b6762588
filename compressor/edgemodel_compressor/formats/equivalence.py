"""How far the answers of a file of another format are from those of the ONNX model that it was made of."""

from __future__ import annotations

from dataclasses import dataclass

from edgemodel_compressor.evaluate.runner import Arrays, Run
from edgemodel_oci.golden import compare_outputs, run_cases


@dataclass(frozen=True)
class Equivalence:
    """Numbers for a row of the report (`report.Conversion`).

    Attributes:
        ran_with: the runtime; for Core ML the interpreter, as it was not run on Core ML.
        cases: rows that were compared.
        max_error: the largest over the outputs of the mean over the cases of ‖format − onnx‖₂ / ‖onnx‖₂.
        agreement: share of equal arg max; None where the first output is no classifier's.
    """

    ran_with: str
    cases: int
    max_error: float
    agreement: float | None


def compare_runs(onnx: Run, other: Run, feeds: Arrays, *, ran_with: str, rows: int = 1) -> Equivalence:
    """Run both on the same rows.

    Args:
        onnx: the ONNX model.
        other: what was made of it.
        feeds: golden inputs, first axis = rows.
        ran_with: what `other` is run by.
        rows: of one run (1, or the model's fixed batch).

    Raises:
        InputError: one of them cannot run.
    """
    wanted = run_cases(onnx, feeds, rows=rows)
    got = run_cases(other, feeds, rows=rows)
    return compare_answers(got, wanted, min(len(a) for a in feeds.values()), ran_with=ran_with)


def compare_answers(got: Arrays, wanted: Arrays, cases: int, *, ran_with: str) -> Equivalence:
    """The same, of answers."""
    score = compare_outputs(got, wanted, cases)
    return Equivalence(ran_with, cases, score.error, score.agreement)

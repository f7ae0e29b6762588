"""A TFLite file's answers, beside those of the ONNX model that it was made of."""

from __future__ import annotations

from pathlib import Path

from edgemodel_compressor.evaluate.runner import Arrays, runner
from edgemodel_compressor.formats.equivalence import Equivalence, compare_runs

from .run import open_run, runtime


def compare(onnx_path: Path, tflite_path: Path, feeds: Arrays, *, rows: int = 1) -> Equivalence:
    """Run both on the same rows.

    Args:
        onnx_path: the ONNX file.
        tflite_path: what was made of it.
        feeds: golden inputs, first axis = rows.
        rows: of one run (1, or the model's fixed batch).

    Raises:
        InputError: one of them cannot run.
    """
    from edgemodel_compressor.formats.onnx_model import open_session

    onnx = runner(open_session(onnx_path))
    return compare_runs(onnx, open_run(tflite_path), feeds, ran_with=runtime(), rows=rows)

"""Models, and converting them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemodel_compressor.evaluate.runner import runner
from edgemodel_compressor.formats import tflite
from edgemodel_compressor.formats.onnx_model import open_session
from edgemodel_compressor.formats.tflite import read
from edgemodel_compressor.formats.tflite.write import _check_rows
from edgemodel_oci.golden import compare_outputs, run_cases

#: Of what is read from the file of an encoding, against the file itself.
READ_TOLERANCE = {"float32": 1e-4, "float16": 1e-3, "int8-weights": 1e-3, "int8-full": 0.1}


class Build:
    """Makes models, and TFLite files of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rng = np.random.default_rng(0)

    @staticmethod
    def node(op: str, inputs: list[str], outputs: list[str] | str = "y", **attributes: Any) -> Any:
        made = [outputs] if isinstance(outputs, str) else outputs
        return helper.make_node(op, inputs, made, name=f"{op.lower()}_{made[0]}", **attributes)

    def weights(self, *shape: int) -> np.ndarray:
        """Normal, of such a size that products keep theirs."""
        inner = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        return (self.rng.standard_normal(shape) / np.sqrt(max(1, inner))).astype(np.float32)

    @staticmethod
    def model(
        nodes: list[Any],
        inputs: dict[str, list[Any]],
        constants: dict[str, Any] | None = None,
        *,
        outputs: tuple[str, ...] = ("y",),
        opset: int = 17,
        kinds: dict[str, int] | None = None,
    ) -> Any:
        kinds = kinds or {}
        made = helper.make_model(
            helper.make_graph(
                nodes,
                "g",
                [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), s) for n, s in inputs.items()],
                [onnx.ValueInfoProto(name=n) for n in outputs],
                [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()],
            ),
            opset_imports=[helper.make_opsetid("", opset)],
            ir_version=8,
        )
        inferred = onnx.shape_inference.infer_shapes(made)
        for output in inferred.graph.output:
            output.type.tensor_type.elem_type = output.type.tensor_type.elem_type or TensorProto.FLOAT
        return inferred

    def convert(self, model: Any, **options: Any) -> tflite.Converted:
        """Which runs the file beside onnxruntime, with and without XNNPACK, and raises where they disagree.

        What was written is read again: the ONNX model that comes of it must give the answers of the file.
        """
        made = tflite.convert(model, self.folder / "model.tflite", **options)
        rows = _check_rows(model, options.get("feeds") or options.get("calibration"))
        self.read_back(made.path, rows, tolerance=READ_TOLERANCE[made.encoding])
        return made

    @staticmethod
    def read_back(path: Path, rows: dict[str, np.ndarray], *, tolerance: float = 1e-4) -> read.Read:
        """The ONNX model of a TFLite file; both are run on the rows, one by one, and the former two by two as well."""
        found = read.read_tflite(path)
        onnx.checker.check_model(found.model, full_check=True)
        here = runner(open_session(found.model.SerializeToString()))
        first = found.model.graph.input[0].type.tensor_type.shape.dim
        own = 1 if found.free_batch else (first[0].dim_value if len(first) else 1)
        there = run_cases(tflite.open_run(path), rows, rows=own)
        cases = min(map(len, rows.values()))
        for count in (own, 2 * own) if found.free_batch else (own,):
            score = compare_outputs(run_cases(here, rows, rows=count), there, cases)
            assert score.error <= tolerance, (count, score)
        return found


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """A new one for each test: its weights are not those that an earlier test left to draw."""
    return Build(tmp_path)

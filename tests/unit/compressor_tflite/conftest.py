"""Models, and converting them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemodel_compressor.formats import tflite


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
        """Which runs the file beside onnxruntime, with and without XNNPACK, and raises where they disagree."""
        return tflite.convert(model, self.folder / "model.tflite", **options)


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return Build(tmp_path_factory.mktemp("tflite"))

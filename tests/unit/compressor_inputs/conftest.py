"""A small good model, and its data."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


class Build:
    """Makes models and files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def weights(name: str = "w", shape: tuple[int, ...] = (3, 4)) -> Any:
        values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        return numpy_helper.from_array(values, name)

    @staticmethod
    def value(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    def model(
        self,
        nodes: list[Any] | None = None,
        *,
        inputs: list[Any] | None = None,
        outputs: list[Any] | None = None,
        initializers: list[Any] | None = None,
        opset: int = 17,
        functions: tuple[Any, ...] = (),
        domains: tuple[str, ...] = (),
    ) -> Any:
        """y = x · w, unless something else is said."""
        graph = helper.make_graph(
            nodes or [helper.make_node("MatMul", ["x", "w"], ["y"], name="mm")],
            "g",
            inputs or [self.value("x", ["N", 3])],
            outputs or [self.value("y", ["N", 4])],
            [self.weights()] if initializers is None else initializers,
        )
        imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
        made = helper.make_model(graph, opset_imports=imports, functions=list(functions))
        made.ir_version = 8
        return made

    def save(self, model: Any, name: str = "model.onnx") -> Path:
        path = self.folder / name
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        return path

    def npz(self, name: str = "data.npz", **arrays: Any) -> Path:
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        path = self.folder / name
        path.write_bytes(buffer.getvalue())
        return path

    @staticmethod
    def external(tensor: Any, location: str, **entries: int) -> Any:
        """The same tensor, its bytes in another file."""
        moved = onnx.TensorProto()
        moved.CopyFrom(tensor)
        moved.ClearField("raw_data")
        moved.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, **entries}.items():
            moved.external_data.append(onnx.StringStringEntryProto(key=key, value=str(value)))
        return moved


@pytest.fixture
def build(tmp_path: Path) -> Build:
    return Build(tmp_path)


@pytest.fixture(scope="session")
def session_build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """For properties: hypothesis calls the test many times with one fixture."""
    return Build(tmp_path_factory.mktemp("inputs"))

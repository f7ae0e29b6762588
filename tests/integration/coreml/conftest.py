"""Models for the Core ML tests, and a comparison with onnxruntime that costs one conversion for many operators."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemodel_compressor.formats import coreml
from edgemodel_compressor.formats.coreml.library import builder
from edgemodel_compressor.formats.onnx_model import open_session
from edgemodel_oci.golden import case_errors


@pytest.fixture(scope="session", autouse=True)
def loaded() -> None:
    """coremltools collects garbage at every conversion: what is loaded by now need not be looked through again."""
    builder()
    gc.collect()
    gc.freeze()


@dataclass(frozen=True)
class Op:
    """One node: `data` depends on the caller, `constants` do not. Places of inputs are kept by None."""

    kind: str
    data: Sequence[np.ndarray]
    constants: Sequence[np.ndarray | None] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    domain: str = ""


def _model(ops: Sequence[Op], opset: int) -> tuple[Any, dict[str, np.ndarray], list[list[str]]]:
    nodes, inputs, initializers, outputs = [], [], [], []
    feeds: dict[str, np.ndarray] = {}
    names: list[list[str]] = []
    for i, op in enumerate(ops):
        given = []
        for j, array in enumerate(op.data):
            name = f"x{i}_{j}"
            feeds[name] = array
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            inputs.append(helper.make_tensor_value_info(name, kind, array.shape))
            given.append(name)
        for j, constant in enumerate(op.constants):
            given.append("" if constant is None else f"c{i}_{j}")
            if constant is not None:
                initializers.append(numpy_helper.from_array(constant, f"c{i}_{j}"))
        made = [f"y{i}_{j}" for j in range(op.outputs)]
        names.append(made)
        outputs += made
        nodes.append(helper.make_node(op.kind, given, made, name=f"{op.kind}_{i}", domain=op.domain, **op.attributes))
    graph = helper.make_graph(
        nodes, "ops", inputs, [helper.make_empty_tensor_value_info(o) for o in outputs], initializers
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    # Types of outputs, which files always declare.
    answers = open_session(model.SerializeToString()).run(None, feeds)
    for value, answer in zip(graph.output, answers, strict=True):
        kind = helper.np_dtype_to_tensor_dtype(answer.dtype)
        value.CopyFrom(helper.make_tensor_value_info(value.name, kind, answer.shape))
    model.graph.CopyFrom(graph)
    return model, feeds, names


Agree = Callable[..., None]


@pytest.fixture
def agree(tmp_path: Path) -> Agree:
    """agree(ops): all of them in one package give onnxruntime's answers in float32."""

    def check(ops: Sequence[Op], *, opset: int = 21, tolerance: float = 2e-5) -> None:
        model, feeds, names = _model(ops, opset)
        assert coreml.unsupported(model) == ()
        path = tmp_path / "ops.mlpackage.zip"
        coreml.convert(model, path, encoding="float32", feeds=feeds, tolerance=float("inf"))
        got = coreml.run(path, feeds)
        wanted = dict(zip(got, open_session(model.SerializeToString()).run(list(got), feeds), strict=True))
        wrong = {}
        for op, made in zip(ops, names, strict=True):
            for name in made:
                assert got[name].dtype == wanted[name].dtype, op
                error = float(case_errors(got[name][None], wanted[name][None], 1).max())
                if not error <= tolerance:
                    wrong[f"{op.kind} {op.attributes}"] = error, got[name].shape, wanted[name].shape
        assert not wrong

    return check


@pytest.fixture
def op() -> type[Op]:
    return Op


@pytest.fixture
def single() -> Callable[..., Any]:
    """single(op, opset): a model of one node."""
    return lambda op, opset=21: _model([op], opset)[0]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def network() -> Any:
    """Convolution, pooling and two dense layers, with a free batch and weights large enough to be compressed."""
    rng = np.random.default_rng(3)

    def weight(name: str, *shape: int) -> Any:
        scale = np.sqrt(np.prod(shape[1:]) or 1)
        return numpy_helper.from_array((rng.standard_normal(shape) / scale).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("MaxPool", ["r"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["h"], name="dense", transB=1),
        helper.make_node("Tanh", ["h"], ["t"], name="tanh"),
        helper.make_node("MatMul", ["t", "w3"], ["l"], name="head"),
        helper.make_node("Softmax", ["l"], ["scores:0"], name="softmax", axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("scores:0", TensorProto.FLOAT, ["N", 16])],
        [weight("w1", 16, 3, 3, 3), weight("b1", 16), weight("w2", 64, 256), weight("b2", 64), weight("w3", 64, 16)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

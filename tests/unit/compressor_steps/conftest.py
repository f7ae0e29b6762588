"""Builders of small models, data in memory, and one-line inference."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper


class MemoryData:
    """`Batches` over arrays."""

    def __init__(self, **arrays: Any) -> None:
        self.arrays = arrays
        self.labels = None

    @property
    def samples(self) -> int:
        return len(next(iter(self.arrays.values())))

    def batches(self, size: int) -> Iterator[dict[str, Any]]:
        for i in range(0, self.samples, size):
            yield {k: v[i : i + size] for k, v in self.arrays.items()}

    def take(self, n: int, seed: int) -> dict[str, Any]:
        rows = np.sort(np.random.default_rng(seed).permutation(self.samples)[:n])
        return {k: v[rows] for k, v in self.arrays.items()}


def model(
    nodes: list[Any], tensors: dict[str, Any], *, x: tuple[Any, ...], opset: int = 17, x_type: int = TensorProto.FLOAT,
    y_type: int = TensorProto.FLOAT, outputs: tuple[str, ...] = ("y",),
) -> Any:  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", x_type, list(x))],
        [helper.make_tensor_value_info(o, y_type, None) for o in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in tensors.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def normal(*shape: int, dtype: Any = np.float32, scale: float = 1.0) -> Any:
    seed = abs(hash(shape)) % 1000  # hashes of tuples of ints are the same in each process
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(dtype)


def node(op: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    name = attributes.pop("name", f"{op.lower()}_{output}")
    return helper.make_node(op, inputs, [output], name=name, **attributes)


def matmul(k: int = 32, n: int = 16, **kw: Any) -> Any:
    return model([node("MatMul", ["x", "w"], "y", name="fc")], {"w": normal(k, n)}, x=("n", k), **kw)


def mlp(**kw: Any) -> Any:
    tensors = {"w1": normal(64, 48, scale=0.2), "b1": normal(48), "w2": normal(10, 48, scale=0.3), "b2": normal(10)}
    nodes = [
        node("Gemm", ["x", "w1", "b1"], "h", name="fc1"),
        node("Relu", ["h"], "r", name="act"),
        node("Gemm", ["r", "w2", "b2"], "l", name="fc2", transB=1),
        node("Softmax", ["l"], "y", name="prob", axis=1),
    ]
    return model(nodes, tensors, x=("n", 64), **kw)


def cnn(*, opset: int = 17) -> Any:
    """Conv, BatchNormalization, Relu, residual Add, pooling, Gemm."""
    tensors = {
        "w1": normal(8, 1, 3, 3, scale=0.4), "w2": normal(8, 8, 3, 3, scale=0.15), "b2": normal(8),
        "g": np.abs(normal(8, scale=0.5)) + 0.5, "be": normal(8, scale=0.1), "mu": normal(8, scale=0.1),
        "var": np.abs(normal(8)) + 0.5, "w3": normal(128, 10, scale=0.1), "b3": normal(10),
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "w1"], "c1", name="conv1", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c1", "g", "be", "mu", "var"], "n1", name="bn"),
        node("Relu", ["n1"], "r1", name="relu1"),
        node("Conv", ["r1", "w2", "b2"], "c2", name="conv2", pads=[1, 1, 1, 1]),
        node("Add", ["c2", "r1"], "a", name="residual"),
        node("MaxPool", ["a"], "p", name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["p"], "f", name="flat"),
        node("Gemm", ["f", "w3", "b3"], "y", name="fc"),
    ]
    return model(nodes, tensors, x=("n", 1, 8, 8), opset=opset)


def run(made: Any, x: Any, output: int = 0) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[output]


def tensor(made: Any, name: str) -> Any:
    return numpy_helper.to_array(next(t for t in made.graph.initializer if t.name == name))


def raw(made: Any) -> bytes:
    return bytes(made.SerializeToString(deterministic=True))


def error(got: Any, want: Any) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def in_order(made: Any) -> bool:
    """Whether each tensor of the outer graph is made once, before it is read."""
    known = [*(i.name for i in made.graph.input), *(t.name for t in made.graph.initializer), ""]
    for each in made.graph.node:
        if any(i not in known for i in each.input):
            return False
        known.extend(each.output)
    return len(known) == len(set(known)) and all(o.name in known for o in made.graph.output)


@pytest.fixture(scope="session")
def m() -> SimpleNamespace:
    return SimpleNamespace(
        model=model, normal=normal, node=node, matmul=matmul, mlp=mlp, cnn=cnn, run=run, tensor=tensor, raw=raw,
        in_order=in_order, error=error, Data=MemoryData, onnx=onnx,
    )  # fmt: skip

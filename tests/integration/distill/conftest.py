"""Small networks and data that learn within a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemodel_compressor.training.data import TrainingSet


def _normal(seed: int, *shape: int, scale: float = 1.0) -> Any:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def _node(op: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    return helper.make_node(op, inputs, [output], name=f"{op.lower()}_{output}", **attributes)


def _model(nodes: list[Any], tensors: dict[str, Any], inputs: dict[str, Any], outputs: dict[str, Any]) -> Any:
    """`inputs` and `outputs`: name → shape, or (element type, shape)."""

    def value(name: str, spec: Any) -> Any:
        kind, shape = spec if isinstance(spec, tuple) else (TensorProto.FLOAT, spec)
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        nodes,
        "g",
        [value(*i) for i in inputs.items()],
        [value(*o) for o in outputs.items()],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _mlp(*, wide: int = 16, ending: str | None = "Softmax", batch: Any = "n", classes: int = 3, seed: int = 0) -> Any:
    """[n, 6] → [n, classes]."""
    nodes = [
        _node("Gemm", ["x", "w1", "b1"], "h1"),
        _node("Relu", ["h1"], "r1"),
        _node("Gemm", ["r1", "w2", "b2"], "h2", transB=1),
        _node("Relu", ["h2"], "r2"),
        _node("MatMul", ["r2", "w3"], "m"),
        _node("Add", ["m", "b3"], "l" if ending else "y"),
    ]
    nodes += [_node(ending, ["l"], "y")] if ending else []
    tensors = {
        "w1": _normal(seed, 6, wide, scale=0.5), "b1": _normal(seed + 1, wide, scale=0.1),
        "w2": _normal(seed + 2, wide, wide, scale=0.3), "b2": _normal(seed + 3, wide, scale=0.1),
        "w3": _normal(seed + 4, wide, classes, scale=0.8), "b3": _normal(seed + 5, classes, scale=0.1),
    }  # fmt: skip
    return _model(nodes, tensors, {"x": [batch, 6]}, {"y": [batch, classes]})


def _residual(blocks: int = 3, *, batch: Any = "n") -> Any:
    """Conv, then residual blocks of two convolutions, then a dense layer: [n, 1, 6, 6] → logits [n, 3]."""
    nodes = [_node("Conv", ["x", "w0", "b0"], "c0", pads=[1, 1, 1, 1]), _node("Relu", ["c0"], "r0")]
    tensors = {"w0": _normal(1, 8, 1, 3, 3, scale=0.4), "b0": _normal(2, 8, scale=0.1)}
    for i in range(1, blocks + 1):
        nodes += [
            _node("Conv", [f"r{i - 1}", f"wa{i}", f"ba{i}"], f"a{i}", pads=[1, 1, 1, 1]),
            _node("Relu", [f"a{i}"], f"ra{i}"),
            _node("Conv", [f"ra{i}", f"wb{i}", f"bb{i}"], f"b{i}", pads=[1, 1, 1, 1]),
            _node("Add", [f"b{i}", f"r{i - 1}"], f"s{i}"),
            _node("Relu", [f"s{i}"], f"r{i}"),
        ]
        for k, part in enumerate("ab"):
            tensors[f"w{part}{i}"] = _normal(10 * i + k, 8, 8, 3, 3, scale=0.1)
            tensors[f"b{part}{i}"] = _normal(10 * i + k + 5, 8, scale=0.05)
    nodes += [_node("GlobalAveragePool", [f"r{blocks}"], "p"), _node("Flatten", ["p"], "f")]
    nodes += [_node("Gemm", ["f", "wl", "bl"], "y")]
    tensors |= {"wl": _normal(91, 8, 3, scale=1.0), "bl": _normal(92, 3, scale=0.1)}
    return _model(nodes, tensors, {"x": [batch, 1, 6, 6]}, {"y": [batch, 3]})


class Build:
    """What tests build with."""

    model = staticmethod(_model)
    node = staticmethod(_node)
    normal = staticmethod(_normal)
    mlp = staticmethod(_mlp)
    residual = staticmethod(_residual)

    @staticmethod
    def run(model: Any, **feeds: Any) -> dict[str, Any]:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))

    @staticmethod
    def rows(samples: int = 80, *, labels: bool = False, **kw: Any) -> TrainingSet:
        """Of `mlp`."""
        x = _normal(5, samples, 6)
        y = np.argmax(x[:, :3] + x[:, 3:], axis=1) if labels else None
        return TrainingSet.of({"x": x}, labels=y, **kw)

    @staticmethod
    def tensor(model: Any, name: str) -> Any:
        return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """XLA takes most of the time of these tests: what was compiled for one is kept for the others."""
    jax = pytest.importorskip("jax")
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="session")
def build() -> type[Build]:
    return Build


@pytest.fixture
def silent() -> Callable[[Any], None]:
    return lambda _progress: None

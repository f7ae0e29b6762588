"""Layers whose sums saturate, quantized in any encoding; and machines that are made up."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemodel_api.edgemodel import Activations, Metric, QuantizeStep, ValidationData
from edgemodel_api.hardware import HardwareClass
from edgemodel_api.report import VerifiedHow
from edgemodel_compressor.evaluate.quality import Evaluator
from edgemodel_compressor.evaluate.runner import runner
from edgemodel_compressor.steps.calibrate import Ranges, TensorRange
from edgemodel_compressor.steps.encodings import BY_NAME, Encoding
from edgemodel_compressor.steps.quantize import quantize
from edgemodel_compressor.verify import Machine, Machines

NATIVE = (sys.executable,)


class Data:
    """`Batches` over arrays."""

    def __init__(self, arrays: dict[str, Any], labels: Any = None) -> None:
        self.arrays, self.labels = arrays, labels

    @property
    def samples(self) -> int:
        return len(next(iter(self.arrays.values())))

    def batches(self, size: int) -> Iterator[dict[str, Any]]:
        for i in range(0, self.samples, size):
            yield {k: v[i : i + size] for k, v in self.arrays.items()}

    def take(self, n: int, seed: int) -> dict[str, Any]:
        rows = np.sort(np.random.default_rng(seed).permutation(self.samples)[:n])
        return {k: v[rows] for k, v in self.arrays.items()}


def model(nodes: list[Any], tensors: dict[str, Any], x: tuple[Any, ...], output: str = "y") -> Any:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *x])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(op: str, inputs: list[str], output: str, name: str, **attributes: Any) -> Any:
    return helper.make_node(op, inputs, [output], name=name, **attributes)


def session(source: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(source if isinstance(source, str) else source.SerializeToString(), options)


def seen(source: Any, x: Any) -> Ranges:
    """Exact ranges of all its tensors on x."""
    names = [o for n in source.graph.node for o in n.output]
    whole = onnx.ModelProto()
    whole.CopyFrom(source)
    del whole.graph.output[:]
    whole.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names)
    values = dict(zip(names, session(whole).run(names, {"x": x}), strict=True)) | {"x": x}
    found = {}
    for name, value in values.items():
        low, high = min(float(value.min()), 0.0), max(float(value.max()), 0.0)
        found[name] = TensorRange(low, high, (low, high))
    return Ranges(found, len(x))


def quantized(source: Any, x: Any, encoding: Encoding | str) -> Any:
    """The model in an encoding."""
    encoding = BY_NAME[encoding] if isinstance(encoding, str) else encoding
    how = Activations.NONE if encoding.weights_only else Activations.DYNAMIC if encoding.dynamic else Activations.STATIC
    return quantize(source, QuantizeStep(activations=how), encoding, ranges=seen(source, x)).model


def worst(rows: int = 16) -> tuple[Any, Any]:
    """One MatMul with large activations, and weights that are ±1 by column: every sum of two leaves 16 bits."""
    rng = np.random.default_rng(0)
    w = np.ones((128, 16)) * rng.choice([-1.0, 1.0], size=16)
    x = rng.uniform(0.525, 1.0, size=(rows, 128)).astype(np.float32)
    return model([node("MatMul", ["x", "w"], "y", "mm")], {"w": w}, (128,)), x


def evaluator(source: Any, x: Any, labels: Any, folder: Any, fixed: int | None = None) -> Evaluator:
    return Evaluator(
        runner(session(source)),
        Data({"x": x}, labels),
        validation=ValidationData(uri="file:v.npz", metric=Metric.TOP1, labels="y") if labels is not None else None,
        work_dir=folder,
        fixed_batch=fixed,
    )


def machine(kind: HardwareClass, command: tuple[str, ...] = NATIVE, how: VerifiedHow = VerifiedHow.EMULATED) -> Machine:
    return Machine(kind, how, f"pretended {kind}", command)


def fleet(*found: Machine, missing: dict[HardwareClass, str] | None = None) -> Machines:
    here = machine(HardwareClass.AMD64_VNNI, how=VerifiedHow.NATIVE)
    return Machines((here, *found), missing or {})


@pytest.fixture
def v() -> SimpleNamespace:
    return SimpleNamespace(
        Data=Data,
        model=model,
        node=node,
        session=session,
        quantized=quantized,
        worst=worst,
        evaluator=evaluator,
        machine=machine,
        fleet=fleet,
    )

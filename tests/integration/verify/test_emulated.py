"""The worst case and its repair on emulated CPUs, each of them a named one."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemodel_api.edgemodel import Activations, Metric, QuantizeStep, ValidationData
from edgemodel_api.hardware import HardwareClass
from edgemodel_compressor.evaluate.quality import Evaluator
from edgemodel_compressor.evaluate.runner import runner
from edgemodel_compressor.steps.calibrate import Ranges, TensorRange
from edgemodel_compressor.steps.encodings import BY_NAME
from edgemodel_compressor.steps.quantize import quantize
from edgemodel_compressor.verify import find_saturation, repairs_for, samples, verify
from edgemodel_compressor.verify.running import run_on

ROWS, INNER, OUTER = 24, 128, 16


class Data:
    """`Batches`."""

    def __init__(self, x, labels):
        self.x, self.labels, self.samples = x, labels, len(x)

    def batches(self, size):
        for i in range(0, len(self.x), size):
            yield {"x": self.x[i : i + size]}

    def take(self, n, seed):
        return {"x": self.x[np.sort(np.random.default_rng(seed).permutation(len(self.x))[:n])]}


def model(w, *, conv=None):
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="mm")
    shape = ["n", len(w)]
    if conv is not None:
        node = helper.make_node("Conv", ["x", "w"], ["y"], name="c", **conv)
        shape = ["n", w.shape[1] * conv.get("group", 1), 8, 8]
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w.astype(np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(source, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(source.SerializeToString(), options).run(None, {"x": x})[0]


def saved(source, x, encoding, folder):
    y = run(source, x)
    ends = {n: (min(float(a.min()), 0.0), max(float(a.max()), 0.0)) for n, a in (("x", x), ("y", y))}
    ranges = Ranges({n: TensorRange(low, high, (low, high)) for n, (low, high) in ends.items()}, len(x))
    how = Activations.DYNAMIC if encoding.dynamic else Activations.STATIC
    path = folder / f"{encoding.name}.onnx"
    onnx.save(quantize(source, QuantizeStep(activations=how), encoding, ranges=ranges).model, path)
    return path


def worst():
    """All activations large, all weights at ±127: FACTS of the field say 33.7 % on AVX2."""
    rng = np.random.default_rng(0)
    w = np.ones((INNER, OUTER)) * rng.choice([-1.0, 1.0], size=OUTER)
    return model(w), rng.uniform(0.525, 1.0, size=(ROWS, INNER)).astype(np.float32)


def error(ran, truth):
    answer = np.concatenate([a["y"] for a in ran.answers])
    return float(np.linalg.norm(answer - truth) / np.linalg.norm(truth))


@pytest.mark.timeout(600)
def test_the_worst_case_on_haswell(emulated, tmp_path):
    haswell = emulated(HardwareClass.AMD64_AVX2)
    source, x = worst()
    truth = run(source, x)
    feeds = [{"x": x[i : i + 8]} for i in range(0, ROWS, 8)]
    for name, expected in (
        ("int8-static-u8s8", 0.337),
        ("int8-static-s8s8", 0.337),
        ("int8-dynamic-s8", 0.337),
        ("int8-static-u8u8", 0.0),
        ("int8-static-u8s7", 0.0),
        ("int8-dynamic-u8", 0.0),
    ):
        encoding = BY_NAME[name]
        path = saved(source, x, encoding, tmp_path)
        ran = run_on(haswell, path, feeds, work_dir=tmp_path, seconds=300)
        assert ran.failure == ""
        assert error(ran, truth) == pytest.approx(expected, abs=0.01), name
        counted = find_saturation(path, feeds)
        assert [s.saturates for s in counted] == ([True] if expected else [])
        if not expected:
            continue
        # What arithmetic says is what the CPU does.
        assert counted[0].error == pytest.approx(error(ran, truth), abs=0.005)


@pytest.mark.timeout(600)
def test_found_repaired_and_verified_again(emulated, fleet, tmp_path):
    emulated(HardwareClass.AMD64_AVX2)
    rng = np.random.default_rng(1)
    # A column for each sample is largest, so that the answers are classes; sums saturate.
    source = model(rng.uniform(0.6, 1.0, size=(INNER, OUTER)))
    x = rng.uniform(0.5, 1.0, size=(60, INNER)).astype(np.float32)
    labels = run(source, x).argmax(axis=1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    evaluator = Evaluator(
        runner(onnxruntime.InferenceSession(source.SerializeToString(), options)),
        Data(x, labels),
        validation=ValidationData(uri="file:v.npz", metric=Metric.TOP1, labels="y"),
        work_dir=tmp_path,
    )
    chosen = samples(evaluator, limit=0.1, wanted=24)
    encoding = BY_NAME["int8-static-u8s8"]
    path = saved(source, x, encoding, tmp_path)
    (row,) = verify(path, classes=["amd64-avx2"], samples=chosen, machines=fleet, work_dir=tmp_path)
    assert row.holds is False
    assert row.cpu.endswith("Haswell")
    assert row.max_error > 0.1
    assert "quality drops by" in row.message
    (first, *_) = repairs_for(encoding, path, feeds=chosen.feeds[:8], broken=[row])
    assert first.name == "int8-static-u8s8-s7"
    mended = saved(source, x, first, tmp_path)
    (row,) = verify(mended, classes=["amd64-avx2"], samples=chosen, machines=fleet, work_dir=tmp_path)
    assert row.holds is True
    assert row.max_error <= 0.01


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "kind", [HardwareClass.ARM64_BASE, HardwareClass.ARM64_DOTPROD, HardwareClass.AMD64_BASE], ids=str
)
def test_others_do_not_saturate(emulated, kind, tmp_path):
    machine = emulated(kind)
    source, x = worst()
    truth = run(source, x)
    # The start of Python takes most of the time there.
    for encoding in (BY_NAME["int8-static-s8s8"], BY_NAME["int8-dynamic-s8"]):
        path = saved(source, x, encoding, tmp_path)
        ran = run_on(machine, path, [{"x": x}], work_dir=tmp_path, seconds=300)
        assert ran.failure == ""
        assert error(ran, truth) < 0.01, encoding.name


CONVS = {
    "odd channels": ((8, 3, 3, 3), {}),
    "pads": ((8, 4, 3, 3), {"pads": [1, 1, 1, 1]}),
    "groups": ((8, 3, 3, 3), {"group": 2, "strides": [2, 1]}),
    "depthwise": ((8, 1, 3, 3), {"group": 8}),
    "point": ((16, 16, 1, 1), {}),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", CONVS)
def test_convolutions_saturate_as_counted(emulated, case, tmp_path):
    haswell = emulated(HardwareClass.AMD64_AVX2)
    shape, attributes = CONVS[case]
    rng = np.random.default_rng(1)
    source = model(rng.choice([-1.0, 1.0], p=[0.4, 0.6], size=shape), conv=attributes)
    x = rng.uniform(0.5, 1.0, size=(2, shape[1] * attributes.get("group", 1), 8, 8)).astype(np.float32)
    path = saved(source, x, BY_NAME["int8-static-u8s8"], tmp_path)
    ran = run_on(haswell, path, [{"x": x}], work_dir=tmp_path, seconds=300)
    counted = find_saturation(path, [{"x": x}])
    assert ran.failure == ""
    expected = counted[0].error if counted else 0.0
    assert (expected > 0.2) == (case != "depthwise")
    assert error(ran, run(source, x)) == pytest.approx(expected, abs=0.01)

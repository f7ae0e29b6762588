"""Seconds of each layer: whose kernel is whose, and a clock of the test's own."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest

from edgemodel_api.edgemodel import Activations, QuantizeStep
from edgemodel_api.errors import InputError
from edgemodel_compressor.profile import _by_run, finder, layer_seconds
from edgemodel_compressor.steps.calibrate import calibrate
from edgemodel_compressor.steps.encodings import BY_NAME
from edgemodel_compressor.steps.prepare import prepare
from edgemodel_compressor.steps.quantize import quantizable, quantize


def two_of_unlike_size(m):
    nodes = [m.node("MatMul", ["x", "a"], "h", name="big"), m.node("Relu", ["h"], "r", name="relu"),
             m.node("MatMul", ["r", "b"], "y", name="big_b")]  # fmt: skip
    return m.model(nodes, {"a": m.normal(512, 512), "b": m.normal(512, 2)}, x=("n", 512))


def test_a_large_layer_takes_longer_in_source_and_candidate(m, tmp_path):
    base, data = prepare(two_of_unlike_size(m)), m.Data(x=m.normal(16, 512))
    path = tmp_path / "float.onnx"
    path.write_bytes(m.raw(base))
    feeds = [{"x": data.arrays["x"][:8]}]
    found = layer_seconds(path, feeds, seconds=0.05)
    assert {"big", "big_b"} <= set(found)
    assert found["big"] > found["big_b"] > 0
    assert list(found) == sorted(found)
    step = QuantizeStep(activations=Activations.STATIC)
    ranges = calibrate(path, data, rows=8, samples=16, seed=0)
    for name in ("int8-static-u8s8", "int8-dynamic-u8", "int8-weights"):
        how = BY_NAME[name]
        step = QuantizeStep(
            activations=Activations.NONE
            if how.weights_only
            else Activations.DYNAMIC
            if how.dynamic
            else Activations.STATIC
        )
        made = tmp_path / f"{name}.onnx"
        onnx.save(quantize(base, step, how, ranges=ranges).model, made)
        assert set(quantizable(base, step)) <= set(layer_seconds(made, feeds, seconds=0.05)), name


def test_convolutions_are_found_under_the_names_that_the_optimizer_gives(m, tmp_path):
    base = prepare(m.cnn())
    path = tmp_path / "float.onnx"
    path.write_bytes(m.raw(base))
    found = layer_seconds(path, [{"x": m.normal(1, 1, 8, 8)}], seconds=0.05)
    assert {n.name for n in base.graph.node if n.op_type == "Conv"} <= set(found)


@pytest.mark.parametrize(
    ("kernel", "op", "owner"),
    [
        ("conv1", "Conv", "conv1"),
        ("conv1_nchwc", "Conv", "conv1"),
        ("fused conv1", "FusedConv", "conv1"),
        ("r_nchwc", "Conv", "conv1"),  # with the Relu in it
        ("relu1", "Relu", "relu1"),  # alone
        ("conv1_b_quant", "DynamicQuantizeMatMul", "conv1_b"),
        ("conv12", "Conv", None),
        ("h:0_nchwc", "Conv", "conv1"),
        ("conv1/MatMulAddFusion", "Gemm", "conv1"),
        ("ReorderInput", "ReorderInput", None),
        ("", "", None),
    ],
)
def test_whose_kernel(m, kernel, op, owner):
    nodes = [m.node("Conv", ["x", "w"], "h:0", name="conv1"), m.node("Relu", ["h:0"], "r", name="relu1"),
             m.node("MatMulInteger", ["r", "w"], "y", name="conv1_b_quant")]  # fmt: skip
    assert finder(m.model(nodes, {}, x=("n", 2)).graph)(kernel, op) == owner


def test_sums_for_each_run():
    assert _by_run([9.0, 9.0, 1.0, 2.0, 3.0], 5) == [1.0, 2.0, 3.0]  # the first two warm up
    assert _by_run([9, 9, 9, 9, 1, 2, 3, 4], 4) == [3, 7]  # twice in a run: its sum
    assert _by_run([5.0], 1) == [5.0]
    assert _by_run([2.0, 4.0], 4) == [1.5]  # not in every run: the mean


def test_it_ends_by_the_clock_or_by_the_number_of_runs(m, tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(two_of_unlike_size(m), path)
    feeds = [{"x": m.normal(1, 512)}]
    ticks = itertools.count(step=1000)
    assert layer_seconds(path, feeds, seconds=1, clock=lambda: float(next(ticks)))
    assert layer_seconds(path, feeds, seconds=1, clock=lambda: 0.0)
    assert layer_seconds(path, [], seconds=1) == {}


def test_data_that_does_not_fit_is_a_message(m, tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(two_of_unlike_size(m), path)
    with pytest.raises(InputError, match=r"m\.onnx fails on the data"):
        layer_seconds(path, [{"x": np.zeros((1, 3), np.float32)}])

"""The table of layers, and of candidates; the host."""

from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgemodel_api.edgemodel import Activations, Precision
from edgemodel_api.hardware import HardwareClass
from edgemodel_api.report import Measurement, Refusal, Verification
from edgemodel_compressor import host
from edgemodel_compressor.bench import Outcome
from edgemodel_compressor.candidates import single
from edgemodel_compressor.layers import layers
from edgemodel_compressor.table import table


def model(initializers):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node("MatMul", ["h", "w_2"], ["y"], name="second"),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["n", 8])],
        [value("y", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(a, name) for name, a in initializers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_layers_count_what_a_weight_became():
    rng = np.random.default_rng(0)
    w = rng.normal(size=(8, 8)).astype(np.float32)
    source = model({"w": w, "w_2": w})
    numbers = rng.integers(-8, 8, (8, 8)).astype(np.int8)
    numbers[:4] = 0
    asymmetric = np.full((8, 8), 128, np.uint8)
    candidate = model(
        {
            "w/quantized": numbers,
            "w/scale": np.ones(8, np.float32),
            "w_2_quantized": asymmetric,
            "w_2_zero_point": np.array(128, np.uint8),
        }
    )
    first, second = layers(source, candidate, {"first": 0.25})
    assert (first.node, first.encoding, first.sensitivity) == ("first", "int4", 0.25)
    assert first.sparsity >= 0.5
    assert first.bytes < first.source_bytes
    assert (second.encoding, second.sparsity, second.sensitivity) == ("uint8", 1.0, None)


def test_numbers_of_more_than_eight_bits_are_two_tensors():
    weight = np.arange(64, dtype=np.float32).reshape(8, 8)
    high, low = np.zeros((8, 8), np.int8), np.zeros((8, 8), np.int8)
    high[:4], low[2:6] = 100, 5
    candidate = model(
        {"w/quantized": high, "w/quantized_1": low, "w/scale": np.ones(8, np.float32), "w/base": np.float32(16)}
    )
    (layer,) = layers(model({"w": weight}), candidate, {})
    assert (layer.encoding, layer.sparsity) == ("int12", 0.25)


def test_an_untouched_weight_keeps_its_bytes():
    source = model({"w": np.eye(8, dtype=np.float32), "w_2": np.eye(8, dtype=np.float32)})
    for layer in layers(source, onnx.ModelProto.FromString(source.SerializeToString()), {}):
        assert layer.bytes == layer.source_bytes
        assert layer.encoding == "float32"
        assert layer.sparsity == 56 / 64


def test_quality_and_time_of_each_layer():
    """A weight that two nodes read: the worse quality, the sum of the times; what was not measured stays open."""
    source = model({"w": np.eye(8, dtype=np.float32)})
    source.graph.node[1].input[1] = "w"
    (shared,) = layers(
        source, source, {"first": 0.1, "second": 0.3},
        quality_drops={"first": 0.02, "second": 0.01}, seconds={"first": 0.001, "second": 0.002, "other": 9.0},
        quantized_seconds={"first": 0.0005},
    )  # fmt: skip
    assert (shared.sensitivity, shared.quality_drop) == (0.3, 0.02)
    assert shared.latency_seconds == 0.003
    assert shared.quantized_latency_seconds == 0.0005
    (bare,) = layers(source, source, {})
    assert (bare.sensitivity, bare.quality_drop, bare.latency_seconds, bare.quantized_latency_seconds) == (None,) * 4


def outcome(recipe, size, drop, refusals=(), complete=True):
    measured = Measurement(size_bytes=size, file_bytes=size, quality=1 - drop, quality_drop=drop, samples=10)
    return Outcome(
        name=recipe.name, recipe=recipe, measurement=measured, refusals=refusals, complete=complete, file_digest="x"
    )


def test_table_of_candidates():
    platforms = ("linux/amd64", "linux/arm64")
    (int8,), (int4,) = (single(p, Activations.NONE, platforms) for p in (Precision.INT8, Precision.INT4))
    static = single(Precision.INT8, Activations.STATIC, platforms)[0]
    slow = Refusal(gate="maxSlowdown", value=1, limit=0, message="slow here")
    bad = Refusal(gate="maxQualityDrop", value=1, limit=0, message="bad")
    best = outcome(int8, 100, 0.0, (slow,))
    broken = Outcome(name="broken", recipe=static, refusals=(Refusal(gate="Load", message="crashed"),))
    source = Measurement(size_bytes=400, file_bytes=400, quality=1.0, quality_drop=0.0, slowdown=0.0)
    rows = table([best, outcome(int4, 120, 0.5, (bad,), complete=False), broken], platforms, best, source)
    assert [r.accepted for r in rows] == [True, False, False]
    assert [r.on_front for r in rows] == [True, False, False]
    assert [r.chosen for r in rows] == [True, False, False]
    assert rows[1].notes == ("a first look at 10 samples only: not followed up",)
    assert rows[2].platforms == ("linux/amd64",)
    assert rows[2].hardware_classes == ("amd64-vnni",)
    assert rows[0].hardware_classes == ()


def test_the_front_is_beside_the_source_and_needs_a_clock():
    """Nothing that the source beats in all three is on it; one that was not timed counts as the slowest."""
    (int8,), (int4,), (half,) = (
        single(p, Activations.NONE, ("linux/amd64",)) for p in (Precision.INT8, Precision.INT4, Precision.FLOAT16)
    )
    source = Measurement(size_bytes=400, file_bytes=400, quality=1.0, quality_drop=0.0, slowdown=0.0)

    def timed(found, slowdown):
        return replace(found, measurement=found.measurement.replace(slowdown=slowdown))

    small, worse, untimed = (
        timed(outcome(int8, 100, 0.01), 0.1),
        timed(outcome(int4, 401, 0.0), 0.1),
        outcome(half, 100, 0.01),
    )
    assert [r.on_front for r in table([small, worse, untimed], ("linux/amd64",), None, source)] == [True, False, False]
    fast = timed(outcome(int4, 401, 0.0), -0.1)
    assert table([fast], ("linux/amd64",), None, source)[0].on_front


def test_what_does_not_hold_on_a_class_is_not_for_it():
    static = single(Precision.INT8, Activations.STATIC, ("linux/amd64",))[0]
    broken = Verification(hardware_class="amd64-vnni", holds=False, message="quality drops")
    lost = replace(outcome(static, 100, 0.0), verified=(broken,), lost=frozenset({"amd64-vnni"}), repairs=("one",))
    source = Measurement(size_bytes=400, file_bytes=400)
    (row,) = table([lost], ("linux/amd64", "linux/arm64"), None, source)
    assert (row.platforms, row.verified, row.repairs) == ((), (broken,), ("one",))


def test_host_without_cpuinfo_is_its_base_class(tmp_path):
    found = host.detect(tmp_path / "absent")
    assert found.hardware_class in {HardwareClass.AMD64_BASE, HardwareClass.ARM64_BASE, HardwareClass.UNKNOWN}
    assert found.cores >= 1
    assert found.memory_bytes > 2**20
    assert set(host.runtimes()) == {"onnxruntime", "onnx", "numpy"}

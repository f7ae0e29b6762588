"""Repairs: which, in which order, and that they reach the layer that needs them and no other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from edgemodel_api.errors import InputError
from edgemodel_api.report import Verification
from edgemodel_compressor.steps.encodings import BY_NAME, INT8_WEIGHTS, Repair
from edgemodel_compressor.verify import find_saturation, repair_words, repairs_for

AVX2 = (Verification(hardware_class="amd64-avx2", holds=False),)


def two_layers(v):
    """The first saturates, the second does not."""
    source, x = v.worst()
    rng = np.random.default_rng(2)
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in source.graph.initializer}
    # Neighbours of unlike signs: their products cannot add up.
    tensors["w2"] = np.abs(rng.normal(size=(16, 16)) * 0.1) * np.tile([[1.0], [-1.0]], (8, 1))
    nodes = [v.node("MatMul", ["x", "w"], "h", "mm"), v.node("Sigmoid", ["h"], "s", "s"),
             v.node("MatMul", ["s", "w2"], "y", "second")]  # fmt: skip
    return v.model(nodes, tensors, (128,)), x


def made(v, source, x, encoding, tmp_path):
    path = tmp_path / f"{encoding.name}.onnx"
    onnx.save(v.quantized(source, x, encoding), path)
    return path


def tensors(path):
    return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


@pytest.mark.parametrize(
    ("name", "suffixes"),
    [
        ("int8-static-u8s8", ["s7", "u8", "float"]),
        ("int8-static-s8s8", ["s7", "float"]),  # u8 weights have no kernel beside s8 activations
        ("int8-dynamic-s8", ["s7", "u8", "float"]),
    ],
)
def test_each_repair_holds_and_leaves_the_other_layer_alone(v, tmp_path, name, suffixes):
    source, x = two_layers(v)
    encoding = BY_NAME[name]
    path = made(v, source, x, encoding, tmp_path)
    feeds = [{"x": x[i : i + 1]} for i in range(4)]
    assert [s.node for s in find_saturation(path, feeds) if s.saturates] == ["mm"]
    found = repairs_for(encoding, path, feeds=feeds, broken=AVX2)
    assert [e.name for e in found] == [f"{name}-{s}" for s in suffixes]
    before = tensors(path)
    truth = v.session(source).run(None, {"x": x})[0]
    for repaired in found:
        assert repaired.family == name
        assert {*encoding.hardware_classes, "amd64-avx2"} == set(repaired.hardware_classes)
        mended = made(v, source, x, repaired, tmp_path)
        assert not any(s.saturates for s in find_saturation(mended, feeds))
        after = tensors(mended)
        same = [n for n in before if n.startswith("w2")]
        assert same
        assert all(np.array_equal(before[n], after[n]) for n in same)
        answer = v.session(str(mended)).run(None, {"x": x})[0]
        assert np.linalg.norm(answer - truth) / np.linalg.norm(truth) < 0.02
        weights = next((after[n] for n in after if n.startswith("w_") and n.endswith("quantized")), None)
        repair = dict(repaired.repairs)["mm"]
        if repair is Repair.FLOAT:
            assert weights is None
            assert after["w"].dtype == np.float32
        elif repair is Repair.UINT8:
            assert weights.dtype == np.uint8
        else:
            assert weights.dtype == np.int8
            assert np.abs(weights.astype(int)).max() == 64
        # The same bytes again.
        assert mended.read_bytes() == made(v, source, x, repaired, tmp_path).read_bytes()


def test_nothing_is_tried_without_a_cause(v, tmp_path):
    source, x = two_layers(v)
    path = made(v, source, x, BY_NAME["int8-static-u8s7"], tmp_path)
    feeds = [{"x": x[:1]}]
    assert repairs_for(BY_NAME["int8-static-u8s7"], path, feeds=feeds, broken=AVX2) == ()
    path = made(v, source, x, BY_NAME["int8-static-u8s8"], tmp_path)
    arm = (Verification(hardware_class="arm64-base", holds=False, message="SIGILL"),)
    assert repairs_for(BY_NAME["int8-static-u8s8"], path, feeds=feeds, broken=arm) == ()
    assert repairs_for(INT8_WEIGHTS, path, feeds=feeds, broken=AVX2) == ()
    with pytest.raises(InputError, match="fails on the data"):
        repairs_for(BY_NAME["int8-static-u8s8"], path, feeds=[{"x": x[:1, :3]}], broken=AVX2)


def test_what_was_tried_is_not_tried_again(v, tmp_path):
    source, x = two_layers(v)
    encoding = BY_NAME["int8-static-u8s8"]
    path = made(v, source, x, encoding, tmp_path)
    tried = replace(
        encoding, name="x", of=encoding.name, repairs=(("mm", Repair.REDUCE_RANGE), ("other", Repair.FLOAT))
    )
    found = repairs_for(tried, path, feeds=[{"x": x[:1]}], broken=AVX2)
    assert [dict(e.repairs) for e in found] == [
        {"mm": Repair.UINT8, "other": Repair.FLOAT},
        {"mm": Repair.FLOAT, "other": Repair.FLOAT},
    ]


def test_two_activations_can_only_become_float(v, tmp_path):
    x = np.random.default_rng(1).uniform(0.8, 1, size=(2, 6, 6)).astype(np.float32)
    source = v.model([v.node("MatMul", ["x", "x"], "y", "mm")], {}, (6, 6))
    encoding = BY_NAME["int8-static-s8s8"]
    path = made(v, source, x, encoding, tmp_path)
    found = repairs_for(encoding, path, feeds=[{"x": x}], broken=AVX2)
    assert {dict(e.repairs)["mm"] for e in found} == {Repair.FLOAT}


def test_words():
    encoding = replace(
        BY_NAME["int8-static-u8s8"],
        repairs=(("a", Repair.REDUCE_RANGE), ("b", Repair.FLOAT), ("c", Repair.REDUCE_RANGE)),
    )
    assert repair_words(encoding) == (
        "2 layers with 7-bit weights, as their sums saturate in 16 bits on amd64-avx2: a, c",
        "1 layer left in float, as its sums saturate in 16 bits on amd64-avx2: b",
    )
    assert repair_words(BY_NAME["int8-static-u8s8"]) == ()

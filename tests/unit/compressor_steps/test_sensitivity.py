"""Sensitivity: the order, and that one run equals a model with that node alone quantized."""

from __future__ import annotations

import itertools

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemodel_api.edgemodel import Activations, Metric, Precision, QuantizeStep, ValidationData
from edgemodel_api.errors import InputError
from edgemodel_compressor.evaluate.quality import Evaluator
from edgemodel_compressor.evaluate.runner import runner
from edgemodel_compressor.steps import sensitivity as module
from edgemodel_compressor.steps.calibrate import calibrate
from edgemodel_compressor.steps.encodings import BY_NAME, INT4_WEIGHTS, INT8_WEIGHTS, STATIC
from edgemodel_compressor.steps.prepare import prepare
from edgemodel_compressor.steps.quantize import quantizable, quantize
from edgemodel_compressor.steps.sensitivity import quality_drops, sensitivity


def fragile(m):
    """Three layers; one of them has an outlier that leaves four bits and fewer to all else."""
    w = {n: m.normal(32, 32) * 0.2 for n in ("a", "b", "c")}
    w["b"] = w["b"].copy()
    w["b"][0, :] *= 60
    nodes = [m.node("MatMul", ["x", "a"], "h", name="first"), m.node("Tanh", ["h"], "t", name="t"),
             m.node("MatMul", ["t", "b"], "i", name="fragile"), m.node("Tanh", ["i"], "u", name="u"),
             m.node("MatMul", ["u", "c"], "y", name="last")]  # fmt: skip
    return m.model(nodes, w, x=("n", 32))


@pytest.mark.parametrize("encoding", [pytest.param(e, id=e.name) for e in (*STATIC, INT4_WEIGHTS, INT8_WEIGHTS)])
def test_equals_quantizing_that_node_alone(m, tmp_path, encoding):
    base, data = prepare(fragile(m)), m.Data(x=m.normal(64, 32))
    path = tmp_path / "float.onnx"
    path.write_bytes(m.raw(base))
    ranges = calibrate(path, data, rows=16, samples=64, seed=0)
    step = QuantizeStep(
        precision=Precision.INT4 if encoding is INT4_WEIGHTS else Precision.INT8,
        activations=Activations.NONE if encoding.weights_only else Activations.STATIC,
    )
    before = m.raw(base)
    names = quantizable(base, step)
    assert names == ("first", "fragile", "last")
    found = sensitivity(base, names, data=data, rows=16, ranges=ranges, encoding=encoding)
    assert m.raw(base) == before
    assert list(found.values()) == sorted(found.values())
    if encoding is INT8_WEIGHTS:
        assert list(found)[-1] == "fragile"
    x = data.arrays["x"][:32]
    truth = m.run(base, x)
    for name in names:
        alone = quantize(base, step, encoding, ranges=ranges, nodes=frozenset({name})).model
        real = m.error(m.run(alone, x), truth)
        assert found[name] == pytest.approx(real, rel=1e-3 if encoding.weights_only else 0.05)
    again = sensitivity(base, reversed(names), data=data, rows=16, ranges=ranges, encoding=encoding)
    assert list(again.items()) == list(found.items())


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_same_on_any_number_of_threads(m, tmp_path, threads):
    base, data = prepare(fragile(m)), m.Data(x=m.normal(64, 32))
    names, steps = ("first", "fragile", "last"), []
    alone = sensitivity(base, names, data=data, rows=16, ranges=None, encoding=INT8_WEIGHTS)
    found = sensitivity(base, names, data=data, rows=16, ranges=None, encoding=INT8_WEIGHTS, threads=threads,
                        progress=lambda *a: steps.append(a))  # fmt: skip
    assert list(found.items()) == list(alone.items())
    assert steps == [(1, 3), (2, 3), (3, 3)]
    evaluator = judged(m, base, data.arrays["x"], tmp_path)
    one, many = (
        quality_drops(base, names, evaluator=evaluator, ranges=None, encoding=INT4_WEIGHTS, threads=n)
        for n in (1, threads)
    )
    assert list(many.items()) == list(one.items())


def test_many_nodes_share_the_rows(m, monkeypatch):
    base, data = prepare(fragile(m)), m.Data(x=m.normal(64, 32))
    seen = []
    run = module._run
    monkeypatch.setattr(module, "_run", lambda s, n, f: seen.append(len(f["x"])) or run(s, n, f))
    for rows, batches in ((16, 2), (48, 1), (64, 1)):
        seen.clear()
        sensitivity(base, ("first", "fragile", "last"), data=data, rows=rows, ranges=None, encoding=INT8_WEIGHTS)
        assert seen == [rows] * batches * 4


@pytest.mark.parametrize("threads", [1, 3])
def test_a_failing_run_is_told_from_any_thread(m, monkeypatch, threads):
    base, data = prepare(fragile(m)), m.Data(x=m.normal(4, 32))

    def fails(*_):
        raise InputError("the model fails on the data: why")

    monkeypatch.setattr(module._Switches, "on", fails)
    with pytest.raises(InputError, match="fails on the data: why"):
        sensitivity(base, ("first", "last"), data=data, rows=4, ranges=None, encoding=INT8_WEIGHTS, threads=threads)


def test_conv_answers_are_rounded_too(m, tmp_path):
    base, data = prepare(m.cnn()), m.Data(x=m.normal(32, 1, 8, 8))
    path = tmp_path / "float.onnx"
    path.write_bytes(m.raw(base))
    ranges = calibrate(path, data, rows=16, samples=32, seed=0)
    step, encoding = QuantizeStep(), STATIC[0]
    found = sensitivity(base, ["conv1", "conv2", "fc"], data=data, rows=16, ranges=ranges, encoding=encoding)
    truth = m.run(base, data.arrays["x"])
    for name, measured in found.items():
        alone = quantize(base, step, encoding, ranges=ranges, nodes=frozenset({name})).model
        assert measured == pytest.approx(m.error(m.run(alone, data.arrays["x"]), truth), rel=0.1)


def test_progress_and_shared_weights(m):
    nodes = [m.node("MatMul", ["x", "w"], "h", name="one"), m.node("MatMul", ["h", "w"], "y", name="two")]
    base = prepare(m.model(nodes, {"w": m.normal(32, 32)}, x=("n", 32)))
    steps = []
    found = sensitivity(
        base, ["one", "two"], data=m.Data(x=m.normal(4, 32)), rows=4, ranges=None, encoding=INT8_WEIGHTS,
        progress=lambda *a: steps.append(a),
    )  # fmt: skip
    # Stored once, so both of them change together; equal ones are ordered by name.
    assert list(found) == ["one", "two"]
    assert found["one"] == found["two"] > 0
    assert steps == [(1, 2), (2, 2)]


def test_answers_that_are_integers_only_are_infinitely_sensitive(m):
    nodes = [m.node("MatMul", ["x", "w"], "h", name="fc"), m.node("ArgMax", ["h"], "y", axis=1)]
    made = m.model(nodes, {"w": m.normal(32, 16)}, x=("n", 32), y_type=TensorProto.INT64)
    data = m.Data(x=m.normal(4, 32))
    assert sensitivity(made, ["fc"], data=data, rows=4, ranges=None, encoding=INT8_WEIGHTS) == {"fc": np.inf}


@pytest.mark.parametrize(
    ("x", "message"),
    [
        pytest.param(np.zeros((0, 32), np.float32), "holds no samples", id="no samples"),
        pytest.param(np.zeros((4, 3), np.float32), "fails on the data", id="a wrong shape"),
    ],
)
def test_messages(m, x, message):
    with pytest.raises(InputError, match=message):
        sensitivity(
            m.matmul(), ["fc"], data=m.Data(x=x), rows=4, ranges=None, encoding=BY_NAME["int8-weights"]
        )  # fmt: skip


def judged(m, base, x, folder):
    """An evaluator of the model by its own classes."""
    labels = m.run(base, x).argmax(axis=1)
    data = m.Data(x=x)
    data.labels = labels
    session = onnxruntime.InferenceSession(m.raw(base))
    validation = ValidationData(uri="file:v.npz", metric=Metric.TOP1, labels="y")
    return Evaluator(runner(session), data, validation=validation, work_dir=folder)


def test_quality_drop_of_one_node_equals_quantizing_it_alone(m, tmp_path):
    base, x = prepare(fragile(m)), m.normal(200, 32)
    evaluator = judged(m, base, x, tmp_path)
    names = quantizable(base, QuantizeStep(precision=Precision.INT4))
    found = quality_drops(base, names, evaluator=evaluator, ranges=None, encoding=INT4_WEIGHTS, samples=200)
    assert tuple(found) == names
    for name in names:
        alone = quantize(
            base, QuantizeStep(precision=Precision.INT4), INT4_WEIGHTS, ranges=None, nodes=frozenset({name})
        )
        real = evaluator.evaluate(runner(onnxruntime.InferenceSession(m.raw(alone.model))))
        assert found[name] == pytest.approx(real.drop)
    assert max(found.values()) > 0


@pytest.mark.parametrize("threads", [1, 2])
def test_quality_drops_end_with_their_time(m, tmp_path, threads):
    base, x = prepare(fragile(m)), m.normal(64, 32)
    evaluator = judged(m, base, x, tmp_path)
    ticks = itertools.count()
    found = quality_drops(base, ("last", "first", "fragile"), evaluator=evaluator, ranges=None, encoding=INT8_WEIGHTS,
                          seconds=1.5, threads=threads, clock=lambda: float(next(ticks)))  # fmt: skip
    assert list(found) == ["last"]


def test_a_weight_in_a_subgraph_is_not_known_to_be_harmless(m):
    """It cannot be fed, so nothing is measured of it: neither that it costs nothing."""

    def branch(name, weight, tensors):
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        node = helper.make_node("MatMul", ["x", weight], [name], name=f"in {name}")
        return helper.make_graph([node], name, [], [out], tensors)

    inner = [numpy_helper.from_array(m.normal(32, 16), "inner")]
    nodes = [
        m.node("ReduceSum", ["x"], "s", keepdims=0), m.node("Greater", ["s", "zero"], "c"),
        helper.make_node("If", ["c"], ["y"], name="if", then_branch=branch("a", "inner", inner),
                         else_branch=branch("b", "outer", [])),
    ]  # fmt: skip
    base = m.model(nodes, {"zero": np.float32(0), "outer": m.normal(32, 16)}, x=(3, 32))
    names = ("in a", "in b")
    data = m.Data(x=m.normal(6, 32))
    found = sensitivity(base, names, data=data, rows=3, ranges=None, encoding=INT8_WEIGHTS)
    assert found["in a"] == np.inf
    assert np.isfinite(found["in b"])

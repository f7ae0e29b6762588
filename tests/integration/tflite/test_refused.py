"""What cannot be converted is named before any work; a wrong file is never written."""

from __future__ import annotations

import contextlib
import copy

import flatbuffers
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgemodel_api.errors import InputError
from edgemodel_compressor.formats import tflite
from edgemodel_compressor.formats.tflite import kernels, schema
from edgemodel_compressor.formats.tflite.graph import Free, Graph, Op, Quantization, Tensor
from edgemodel_compressor.formats.tflite.schema import serialize
from edgemodel_compressor.formats.tflite.worker import WORKER, Worker, isolated_run, patience


def test_every_node_is_named_with_its_reason(build):
    nodes = [
        build.node("NonZero", ["x"], "i"), build.node("MaxPool", ["x"], "p", kernel_shape=[2, 2], dilations=[2, 2]),
        build.node("Relu", ["p"]),
    ]  # fmt: skip
    model = build.model(nodes, {"x": ["N", 2, 6, 6]}, outputs=("y",))
    model.graph.node.append(helper.make_node("Strange", ["x"], ["s"], name="odd", domain="com.example"))
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    assert tflite.unsupported(model) == ("node odd (com.example.Strange): no operator of ONNX's own",)
    del model.graph.node[-1]
    assert tflite.unsupported(model) == (
        "node nonzero_i (NonZero): it is not computed from weights and shapes alone",
        "node maxpool_p (MaxPool): dilations [2, 2]",
    )
    with pytest.raises(InputError, match=r"nonzero_i.*maxpool_p") as caught:
        build.convert(model)
    assert caught.value.reason == "NotSupported"


def test_what_can_be_converted_has_no_problems(build):
    assert tflite.unsupported(build.model([build.node("Relu", ["x"])], {"x": ["N", 3]})) == ()


@pytest.mark.parametrize(
    ("shape", "kind", "words"),
    [
        (["N", "length"], TensorProto.FLOAT, "dimension 1 (length) is free"),
        ([], TensorProto.FLOAT, "is a scalar"),
        (["N", 3], TensorProto.DOUBLE, "is float64"),
        (["N", 3], TensorProto.STRING, "is object"),
    ],
)
def test_inputs_that_tflite_cannot_have(build, shape, kind, words):
    model = build.model([build.node("Identity", ["x"])], {"x": shape}, kinds={"x": kind})
    assert any(words in p for p in tflite.unsupported(model))


def test_a_free_dimension_is_taken_from_the_data(build):
    model = build.model([build.node("Softmax", ["x"])], {"x": ["N", "length"]})
    rows = {"x": np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)}
    made = build.convert(model, feeds=rows)
    assert tflite.run(made.path, rows)["y"].shape == (4, 6)


def test_a_file_that_disagrees_is_not_written(build, tmp_path):
    model = build.model([build.node("MatMul", ["x", "w"])], {"x": ["N", 64]}, {"w": build.weights(64, 48)})
    dest = tmp_path / "wrong.tflite"
    with pytest.raises(InputError, match=r"disagrees with the ONNX model: relative error"):
        tflite.convert(model, dest, encoding="int8-weights", tolerance=1e-5)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_rounding_moves_is_held_to_that(build):
    """sin(3·10⁴ · x): the last bit of a product is the third digit of the answer, on every runtime."""
    n = build.node
    nodes = [n("MatMul", ["x", "w"], "a"), n("Mul", ["a", "large"], "b"), n("Sin", ["b"])]
    constants = {"w": build.weights(64, 8), "large": np.float32(3e4)}
    model = build.model(nodes, {"x": ["N", 64]}, constants)
    made = build.convert(model)
    assert made.check.max_error < 0.05
    assert "rounding moves the ONNX model's own answers" in made.notes[0]
    with pytest.raises(InputError, match="disagrees"):
        build.convert(model, tolerance=1e-3)


def test_an_unknown_encoding(build):
    with pytest.raises(InputError, match="float32, float16, int8-weights, int8-full"):
        build.convert(build.model([build.node("Relu", ["x"])], {"x": ["N", 3]}), encoding="int4")


def test_kernels_that_would_end_the_process_are_looked_up_before(build):
    model = build.model([build.node("Add", ["x", "x"])], {"x": ["N", 3]}, kinds={"x": TensorProto.INT8})
    assert tflite.unsupported(model) == ("node add_y (Add): TFLite's ADD takes float32, int32, int64, not int8",)


def test_a_crash_of_the_runtime_is_a_message(tmp_path):
    """LiteRT takes plain int8 for quantized numbers, finds no scale and aborts; and the next file runs."""
    x, y = (Tensor(n, (2,), np.dtype(np.int8)) for n in "xy")
    graph = Graph([Op("ADD", [x, x], [y])], {"x": x}, {"y": y})
    assert kernels.refusal(graph.ops[0]) is not None
    (tmp_path / "bad.tflite").write_bytes(serialize(graph, description=""))
    with pytest.raises(InputError, match=r"LiteRT crashed \(SIGABRT\)"):
        isolated_run(tmp_path / "bad.tflite", delegates=True)({"x": np.ones(2, np.int8)})
    a, b = (Tensor(n, (2,), np.dtype(np.float32)) for n in "ab")
    good = tmp_path / "good.tflite"
    good.write_bytes(serialize(Graph([Op("ADD", [a, a], [b])], {"a": a}, {"b": b}), description=""))
    assert isolated_run(good, delegates=True)({"a": np.ones(2, np.float32)})["b"].tolist() == [2, 2]


@pytest.mark.parametrize("program", ["import time; time.sleep(600)", "import sys; sys.stdin.buffer.read()"])
def test_a_run_that_does_not_end_is_ended(tmp_path, program):
    """A kernel that hangs, whether it took its data or not; and the next run has a child of its own."""
    (tmp_path / "m.tflite").write_bytes(b"\0" * 2**21)
    asked = []
    worker = Worker(lambda size, rows: asked.append((size, rows)) or 1.0, program)
    feeds = {"x": np.zeros((7, 2**18), np.float32)}
    for _ in range(2):
        with pytest.raises(InputError, match=r"LiteRT did not end a run within 1 s: give a smaller model"):
            worker.run(tmp_path / "m.tflite", feeds, delegates=True)
        assert worker.close() == 0, "none is left"
    assert asked == [(2**21, 7)] * 2


def test_an_answer_that_breaks_off_is_a_crash(tmp_path):
    worker = Worker(program="import os; os.write(1, (100).to_bytes(8, 'little') + b'PK'); os._exit(3)")
    with pytest.raises(InputError, match=r"LiteRT crashed \(exit code 3\)"):
        worker.run(tmp_path / "none.tflite", {"x": np.zeros(1)}, delegates=True)


def test_more_data_and_larger_files_get_more_time():
    assert patience(0, 1) < patience(2**20, 1) < patience(2**20, 32) < patience(2**30, 32)


def test_closing_the_child_twice_is_harmless():
    assert WORKER.close() in (0, -15)
    assert WORKER.close() == 0


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({}, "'x' is missing"),
        ({"x": np.zeros((1, 4), np.float32)}, r"has shape \[1, 4\], and the model takes \[-1, 3\]"),
        ({"x": np.zeros((1, 3))}, "is float64, and the model takes float32"),
        ({"x": np.zeros(3, np.float32)}, "has shape"),
        ({"x": np.zeros((1, 3), np.int8)}, "is int8, and the model takes float32"),
    ],
)
def test_feeds_that_do_not_fit(build, feeds, words):
    path = build.convert(build.model([build.node("Relu", ["x"])], {"x": ["N", 3]})).path
    with pytest.raises(InputError, match=words):
        tflite.run(path, feeds)


def integers(*, signatures: int | None) -> bytes:
    """y = x + x in 8 bits, as others make it: with so many signatures of other names; None: ours."""
    q = Quantization(np.array([0.05], np.float32), np.array([3]))
    x, y = (Tensor(n, (Free(1), 4), np.dtype(np.int8), None, q) for n in "xy")
    content = serialize(Graph([Op("ADD", [x, x], [y])], {"x": x}, {"y": y}), description="")
    if signatures is None:
        return content
    model = schema.parse(content)
    own = model.signatureDefs[0]
    model.signatureDefs = [copy.copy(own) for _ in range(signatures)]
    for i, signature in enumerate(model.signatureDefs):
        signature.signatureKey = f"other{i}"
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize("signatures", [None, 0, 1], ids=["ours", "none", "another"])
def test_integer_inputs_take_integers(signatures):
    run = tflite.open_run(integers(signatures=signatures))
    rows = np.array([[1, 2, 3, 4], [-128, 127, 0, 3]])
    for dtype in (np.int8, np.int64):
        answers = run({"x": rows.astype(dtype)})["y"]
        assert (answers.dtype, answers.shape) == (np.dtype(np.int8), (2, 4))
        assert answers[0].tolist() == [-1, 1, 3, 5]
    with pytest.raises(InputError, match="is int64, and the model takes int8, from -128 to 127"):
        run({"x": rows + 100})
    with pytest.raises(InputError, match=r"is float32, .* give round\(x / 0.05\) \+ 3, as int8"):
        run({"x": rows.astype(np.float32)})


def test_several_signatures_are_no_guess():
    with pytest.raises(InputError, match=r"has the signatures 'other0', 'other1', and none is 'serving_default'"):
        tflite.open_run(integers(signatures=2))


def test_other_files_are_no_tflite(tmp_path):
    path = tmp_path / "text.tflite"
    path.write_text("this is no model")
    with pytest.raises(InputError, match=r"LiteRT .* cannot read text\.tflite"):
        tflite.run(path, {})


OPS = sorted(tflite.OPS)


@settings(max_examples=25, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_odd_graphs_never_show_a_traceback(build, data):
    """Random operators with random operands and attributes: converted, or refused in words."""
    names = ["x", "k", "i"]
    nodes = []
    for n in range(data.draw(st.integers(1, 3))):
        op = data.draw(st.sampled_from(OPS))
        inputs = [data.draw(st.sampled_from([*names, ""])) for _ in range(data.draw(st.integers(1, 3)))]
        attributes = {
            a: data.draw(v)
            for a, v in {
                "axis": st.integers(-3, 3), "axes": st.lists(st.integers(-3, 3), min_size=1, max_size=2),
                "perm": st.permutations([0, 1, 2]), "keepdims": st.integers(0, 1), "kernel_shape": st.just([2]),
                "pads": st.just([1, 0]), "mode": st.sampled_from(["constant", "linear", "nearest"]),
                "hidden_size": st.integers(1, 3), "blocksize": st.just(2), "equation": st.just("abc,abd->acd"),
            }.items()
            if data.draw(st.booleans())
        }  # fmt: skip
        nodes.append(helper.make_node(op, inputs, [f"y{n}"], name=f"n{n}", **attributes))
        names.append(f"y{n}")
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6])], [onnx.ValueInfoProto(name=names[-1])],
        [onnx.numpy_helper.from_array(build.weights(4, 6), "k"), onnx.numpy_helper.from_array(np.asarray([1, 0]), "i")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    problems, made = ("cannot be run",), None
    with contextlib.suppress(InputError):
        problems = tflite.unsupported(model)
        made = build.convert(model)
    assert (made is None) or (problems == () and made.check.max_error <= 1e-3)


def test_the_registry_has_a_note_for_each_operator():
    assert len(tflite.OPS) > 130
    assert all(isinstance(note, str) for note in tflite.OPS.values())
    assert tflite.OPS["Relu"] == ""
    assert tflite.OPS["Range"] == "where it is computed from weights and shapes alone"

"""TFLite files in the runtime: answers, names, shapes and types as of the ONNX model that they were made of."""

import concurrent.futures
import sys
import threading

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemodel_agent import runtimes
from edgemodel_agent.runtimes import tflite
from edgemodel_agent.runtimes.base import DATATYPES, TensorSpec, blank, fixed_rows
from edgemodel_api.errors import InputError
from edgemodel_compressor.formats import tflite as writer

RNG = np.random.default_rng(0)


def values(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(nodes, inputs, outputs, weights=()):
    tensors = [numpy_helper.from_array(w, n) for n, w in dict(weights).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def convolutional():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], name="c"),
        helper.make_node("Relu", ["c"], ["r"], name="r"),
        helper.make_node("Flatten", ["r"], ["f"], name="f"),
        helper.make_node("MatMul", ["f", "v"], ["y"], name="y"),
    ]
    weights = {"w": RNG.standard_normal((4, 1, 3, 3)).astype(np.float32)}
    weights["v"] = RNG.standard_normal((256, 10)).astype(np.float32)
    x, y = values("x", TensorProto.FLOAT, ["n", 1, 8, 8]), values("y", TensorProto.FLOAT, ["n", 10])
    return model_of(nodes, [x], [y], weights)


def of_two():
    """Inputs and outputs whose order is not that of their names; an index among the inputs."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["g"], name="g"),
        helper.make_node("Add", ["g", "a"], ["z"], name="z"),
        helper.make_node("Relu", ["z"], ["b"], name="b"),
    ]
    inputs = [values("ids", TensorProto.INT64, ["n"]), values("a", TensorProto.FLOAT, ["n", 4])]
    outputs = [values("z", TensorProto.FLOAT, ["n", 4]), values("b", TensorProto.FLOAT, ["n", 4])]
    return model_of(nodes, inputs, outputs, {"table": RNG.standard_normal((5, 4)).astype(np.float32)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


def pair(folder, name, model):
    """(ONNX, TFLite) as files without a suffix, as in the agent's store."""
    onnx.save(model, folder / name)
    writer.convert(model, folder / f"{name}-tflite")
    return folder / name, folder / f"{name}-tflite"


@pytest.fixture(scope="module")
def images(folder):
    return pair(folder, "images", convolutional())


@pytest.fixture(scope="module")
def two(folder):
    return pair(folder, "two", of_two())


def test_the_magic_chooses_the_runtime(images):
    theirs, ours = (runtimes.load(p) for p in images)
    assert (theirs.platform, ours.platform) == ("onnxruntime_onnx", "litert_tflite")
    assert ours.version == tflite._version(tflite.LIBRARIES[0])
    assert ours.inputs == theirs.inputs == (TensorSpec("x", "FP32", (None, 1, 8, 8)),)
    assert ours.outputs == theirs.outputs
    assert fixed_rows(ours.inputs) == 1


def test_names_types_and_order_are_those_of_the_onnx_model(two):
    theirs, ours = (runtimes.load(p) for p in two)
    assert [s.name for s in ours.inputs] == ["ids", "a"]
    assert ours.inputs == theirs.inputs
    assert [s.name for s in ours.outputs] == ["z", "b"]
    feeds = {"ids": np.array([4, 0], np.int64), "a": np.ones((2, 4), np.float32)}
    answers = ours.run(feeds)
    assert list(answers) == ["z", "b"]
    for name, expected in theirs.run(feeds).items():
        np.testing.assert_allclose(answers[name], expected, rtol=1e-6)
    assert list(ours.run(feeds, ["b"])) == ["b"]


@pytest.mark.parametrize("kind", ["BOOL", "UINT8", "INT8", "INT32", "INT64", "FLOAT"])
def test_every_type_that_a_tflite_model_can_have(folder, kind):
    """16-bit and unsigned types, strings and doubles the writer refuses."""
    number = getattr(TensorProto, kind)
    node = helper.make_node("Not", ["x"], ["y"], name="n") if kind == "BOOL" else None
    node = node or helper.make_node("Concat", ["x", "x"], ["y"], axis=1, name="n")
    width = 3 if kind == "BOOL" else 6
    model = model_of([node], [values("x", number, ["n", 3])], [values("y", number, ["n", width])])
    theirs, ours = (runtimes.load(p) for p in pair(folder, kind, model))
    assert (ours.inputs, ours.outputs) == (theirs.inputs, theirs.outputs)
    x = np.array([[1, 0, 1], [0, 1, 0]]).astype(DATATYPES[ours.inputs[0].datatype])
    answer = ours.run({"x": x})["y"]
    assert answer.dtype == x.dtype
    np.testing.assert_array_equal(answer, theirs.run({"x": x})["y"])


def test_any_batch_in_any_order_and_strided_arrays(images):
    theirs, ours = (runtimes.load(p) for p in images)
    for rows in (1, 5, 2, 2, 1, 64):
        x = RNG.standard_normal((rows, 1, 8, 8)).astype(np.float32)
        answer = ours.run({"x": x})["y"]
        assert (answer.shape, answer.dtype) == ((rows, 10), np.float32)
        np.testing.assert_allclose(answer, theirs.run({"x": x})["y"], rtol=1e-4, atol=1e-4)
    x = RNG.standard_normal((8, 8, 1, 3)).astype(np.float32).T
    np.testing.assert_allclose(ours.run({"x": x})["y"], theirs.run({"x": x})["y"], rtol=1e-4, atol=1e-4)


def test_an_answer_stays_what_it_is_when_the_next_comes(images):
    ours = runtimes.load(images[1])
    first = ours.run({"x": np.ones((1, 1, 8, 8), np.float32)})["y"]
    kept = first.copy()
    ours.run({"x": np.zeros((1, 1, 8, 8), np.float32)})
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("copies", [1, 3, 100])
def test_many_at_once(images, copies, threads):
    theirs, ours = runtimes.load(images[0]), runtimes.load(images[1], threads=threads, copies=copies)
    feeds = [{"x": RNG.standard_normal((1 + i % 4, 1, 8, 8)).astype(np.float32)} for i in range(60)]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        for feed, answer in zip(feeds, pool.map(ours.run, feeds), strict=True):
            np.testing.assert_allclose(answer["y"], theirs.run(feed)["y"], rtol=1e-4, atol=1e-4)
    assert ours._pool._there <= min(copies, tflite.MAX_COPIES)


class Counted:
    """A library in which an inference takes as long as the test wants, and fails when it says so."""

    def __init__(self):
        self.made, self.fails, self.go = 0, False, threading.Event()
        self.entered = threading.Semaphore(0)

    def make(self):
        self.made += 1
        return self

    def get_signature_list(self):
        return {"main": {}}

    def allocate_tensors(self):
        pass

    def get_signature_runner(self, key):
        return Runner(self)

    def get_input_details(self):
        return []

    get_output_details = get_input_details


class Runner:
    def __init__(self, library):
        self.library = library

    def get_input_details(self):
        return {}

    get_output_details = get_input_details

    def __call__(self):
        self.library.entered.release()
        self.library.go.wait(10)
        if self.library.fails:
            raise RuntimeError("a kernel said no")
        return {}


def counted(copies, memory=None):
    library = Counted()
    return library, tflite.TfliteRuntime(library.make, platform="p", version="1", copies=copies, memory=memory)


@pytest.mark.parametrize(
    ("copies", "memory", "together"),
    [(2, None, 2), (100, None, tflite.MAX_COPIES), (2, 2**60, 2), (2, 1, 1), (0, None, 1)],
    ids=["as many as may be", "never more than four", "there is memory", "no memory for a second", "one at least"],
)
def test_interpreters_are_made_when_they_are_needed_and_no_more_than_may_be(copies, memory, together):
    library, runtime = counted(copies, memory)
    assert library.made == 1
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        running = [pool.submit(runtime.run, {}) for _ in range(8)]
        for _ in range(together):
            assert library.entered.acquire(timeout=10)
        assert not library.entered.acquire(timeout=0.2), "one more runs at the same time"
        library.go.set()
        assert [f.result(timeout=10) for f in running] == [{}] * 8
    assert library.made == together
    runtime.run({})
    assert library.made == together


def test_an_interpreter_that_failed_is_not_used_again():
    library, runtime = counted(1)
    library.go.set()
    library.fails = True
    for _ in range(3):
        with pytest.raises(InputError, match="does not accept these inputs: a kernel said no"):
            runtime.run({})
    library.fails = False
    assert runtime.run({}) == {}
    assert library.made == 4


REFUSED = {
    "no row": ({"x": np.zeros((0, 1, 8, 8), np.float32)}, r"shape \[0, 1, 8, 8\], and it takes \[-1, 1, 8, 8\]"),
    "another shape": ({"x": np.zeros((1, 1, 8, 9), np.float32)}, r"shape \[1, 1, 8, 9\]"),
    "another rank": ({"x": np.zeros((1, 8, 8), np.float32)}, r"shape \[1, 8, 8\]"),
    "another type": ({"x": np.zeros((1, 1, 8, 8))}, "is float64, not FP32"),
    "nothing": ({}, "'x' is missing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_in_words(images, name):
    feeds, text = REFUSED[name]
    ours = runtimes.load(images[1])
    with pytest.raises(InputError, match=text):
        ours.run(feeds)
    assert ours.run(blank(ours.inputs))["y"].shape == (1, 10)


@pytest.mark.parametrize("index", [5, -6, 2**40])
def test_an_index_outside_of_its_table_is_the_clients_error(two, index):
    ours = runtimes.load(two[1])
    a = np.ones((1, 4), np.float32)
    with pytest.raises(InputError, match="does not accept these inputs"):
        ours.run({"ids": np.array([index], np.int64), "a": a})
    assert ours.run({"ids": np.array([0], np.int64), "a": a})["z"].shape == (1, 4)


def test_without_a_library_the_packages_are_named(images, monkeypatch):
    absent = tflite.Library("absent", "no_such_library.interpreter", "absent_tflite")
    monkeypatch.setattr(tflite, "LIBRARIES", (absent, tflite.LIBRARIES[0]))
    assert runtimes.load(images[1]).platform == "litert_tflite", "the next one does"
    monkeypatch.setattr(tflite, "LIBRARIES", (absent, absent._replace(package="missing")))
    with pytest.raises(InputError, match="neither absent nor missing is installed on this node"):
        runtimes.load(images[1])


def test_without_onnxruntime_an_onnx_model_is_refused_in_words(images, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"an ONNX model, and onnxruntime is not installed on this node .*add TFLite"):
        runtimes.load(images[0])
    assert runtimes.load(images[1]).platform == "litert_tflite"


def edited(folder, path, change):
    """The file with something else in it."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    change(model, schema)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    (folder / "edited").write_bytes(builder.Output())
    return folder / "edited"


def no_signature(model, _schema):
    model.signatureDefs = []


def complex_numbers(model, schema):
    model.subgraphs[0].tensors[int(model.subgraphs[0].inputs[0])].type = schema.TensorType.COMPLEX64


BAD_FILES = {
    "nothing behind the magic": (lambda folder, _p: b"\x1c\0\0\0TFL3", "cannot load it"),
    "rubbish behind the magic": (lambda folder, _p: b"\x1c\0\0\0TFL3" + bytes(range(256)) * 4, "cannot load it"),
    "cut short": (lambda folder, p: p.read_bytes()[:-600], "cannot load it|cannot be prepared"),
    "no signature": (lambda folder, p: edited(folder, p, no_signature).read_bytes(), "has no signature, so its inputs"),
    "complex numbers": (lambda folder, p: edited(folder, p, complex_numbers).read_bytes(), "cannot be served|cannot be prepared"),
    "a Core ML package": (lambda folder, _p: b"PK\x03\x04" + bytes(100), "nodes have no runtime for those"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_that_cannot_be_served(folder, images, name):
    make, text = BAD_FILES[name]
    path = folder / "bad"
    path.write_bytes(make(folder, images[1]))
    with pytest.raises(InputError, match=text):
        runtimes.load(path)


def test_one_signature_of_another_name_will_do(folder, images):
    def rename(model, _schema):
        model.signatureDefs[0].signatureKey = "predict"

    assert runtimes.load(edited(folder, images[1], rename)).inputs[0].name == "x"

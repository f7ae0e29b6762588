"""Token ids beyond the vocabulary, and their like: which array, which sample, what is allowed."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgemodel_api.errors import InputError
from edgemodel_compressor.data import open_dataset
from edgemodel_compressor.evaluate.bad_index import in_words
from edgemodel_compressor.evaluate.runner import runner
from edgemodel_compressor.formats.onnx_model import open_session
from edgemodel_compressor.formats.probe import probe
from edgemodel_compressor.formats.signature import inputs_of
from edgemodel_compressor.indices import Table, check_indices, tables

GIB = 2**30


@pytest.fixture
def embedding(build: Any) -> Any:
    """Token ids [n, 5], by way of a Cast and a Reshape, into a table of 100 rows and one of 40 by its second axis."""
    nodes = [
        helper.make_node("Cast", ["ids"], ["wide"], to=TensorProto.INT64, name="cast"),
        helper.make_node("Reshape", ["wide", "shape"], ["flat"], name="flat"),
        helper.make_node("Gather", ["words", "flat"], ["a"], name="embed"),
        helper.make_node("Gather", ["places", "other"], ["b"], name="place", axis=1),
        helper.make_node("Sub", ["wide", "wide"], ["zero"], name="zero"),
        helper.make_node("Gather", ["words", "zero"], ["c"], name="computed"),
    ]
    integers = TensorProto.INT32
    return build.model(
        nodes,
        inputs=[build.value("ids", ["N", 5], integers), build.value("other", ["N"], integers)],
        outputs=[build.value(n, None) for n in "abc"],
        initializers=[
            build.weights("words", (100, 3)),
            build.weights("places", (2, 40)),
            helper.make_tensor("shape", TensorProto.INT64, [1], [-1]),
        ],
    )


def dataset(build: Any, model: Any, ids: Any, other: Any) -> Any:
    path = build.npz(ids=np.asarray(ids, np.int32), other=np.asarray(other, np.int32))
    inputs = inputs_of(model.graph)
    return open_dataset(path, inputs, labels=None, work_dir=build.folder, max_bytes=GIB, what="data.validation")


def test_the_model_says_which_inputs_are_looked_up(embedding):
    assert tables(embedding) == (Table("ids", "embed", 100), Table("other", "place", 40))


@pytest.mark.parametrize(
    ("row", "column", "value"), [(3, 2, 100), (299, 4, 30_522), (0, 0, -101), (280, 1, -(2**31))], ids=str
)
def test_the_first_bad_one_is_named_with_its_sample(build, embedding, row, column, value):
    ids = np.random.default_rng(0).integers(-100, 100, (300, 5))
    ids[row, column] = value
    data = dataset(build, embedding, ids, np.arange(300) % 40)
    words = rf"^data.validation: array 'ids' has {value} in sample {row}, .* table of 100 rows \(node 'embed'\): only 0 … 99"
    with pytest.raises(InputError, match=words):
        check_indices(data, tables(embedding), "data.validation")


def test_all_that_are_in_the_table_pass(build, embedding):
    ids = np.random.default_rng(0).integers(-100, 100, (300, 5))
    data = dataset(build, embedding, ids, np.arange(300) % 40)
    check_indices(data, tables(embedding), "data.validation")
    check_indices(data, (), "data.validation")


def cast(build: Any, *kinds: str) -> Any:
    """Token ids [n], int64, by way of casts, into a table of 100 rows; the nodes have no names."""
    names = ["ids", *(f"c{i}" for i in range(len(kinds)))]
    nodes = [
        helper.make_node("Cast", [a], [b], to=getattr(TensorProto, kind))
        for a, b, kind in zip(names, names[1:], kinds, strict=False)
    ]
    nodes.append(helper.make_node("Gather", ["words", names[-1]], ["y"]))
    inputs, outputs = [build.value("ids", ["N"], TensorProto.INT64)], [build.value("y", None)]
    return build.model(nodes, inputs=inputs, outputs=outputs, initializers=[build.weights("words", (100, 3))])


@pytest.mark.parametrize(
    "kinds", [["INT32"], ["INT16", "INT64"], ["UINT8", "INT32"], ["UINT32", "INT64"], ["INT64"]], ids="-".join
)
def test_a_narrower_cast_keeps_the_lowest_bits_as_in_the_runtime(build, kinds):
    model = cast(build, *kinds)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for value in (5, -1, 100, 2**31, 2**32 + 5, 2**32 + 100, -(2**32) - 3, 2**16 + 99, 256 + 99, 2**40 - 1, -(2**63)):
        ids = np.array([0, value])
        try:
            session.run(None, {"ids": ids})
            runs = True
        except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument:
            runs = False
        data = open_dataset(
            build.npz(ids=ids), inputs_of(model.graph), labels=None, work_dir=build.folder, max_bytes=GIB, what="data"
        )
        if runs:
            check_indices(data, tables(model), "data")
        else:
            with pytest.raises(
                InputError, match=rf"^data: array 'ids' has {value} in sample 1.*100 rows \(a Gather\): only"
            ):
                check_indices(data, tables(model), "data")


def test_a_number_that_a_cast_makes_wrong_is_named_with_what_it_becomes(build):
    model = cast(build, "INT32")
    data = open_dataset(
        build.npz(ids=np.array([2**32 + 100])), inputs_of(model.graph), labels=None, work_dir=build.folder, max_bytes=GIB, what="d",
    )  # fmt: skip
    with pytest.raises(
        InputError, match=r"'ids' has 4294967396 in sample 0, which a Cast makes 100, and the model looks"
    ):
        check_indices(data, tables(model), "d")
    assert len(tables(cast(build, "INT32", "INT64"))) == 1


def lookup(build: Any, op: str) -> Any:
    """By an index that is computed, so that only the run can tell."""
    double = helper.make_node("Add", ["ids", "ids"], ["twice"], name="twice")
    look = helper.make_node(op, ["w", "twice"], ["y"], name="look")
    shape = ["N", 4] if op == "GatherElements" else ["N", 1]
    inputs = [build.value("ids", shape, TensorProto.INT64)]
    initializers = [build.weights("w", (3, 4))]
    return build.model([double, look], inputs=inputs, outputs=[build.value("y", None)], initializers=initializers)


SAID = {
    "Gather": r"an index of 14 follows from the data, .* only −3 … 2 are \(node 'look', Gather\): correct the data",
    "GatherND": r"an index of 14 follows .* there is no such place \(node 'look', GatherND\)",
    "GatherElements": r"an index is beyond what the model looks it up in \(node 'look', GatherElements\)",
}


@pytest.mark.parametrize("op", SAID)
def test_what_the_runtime_says_is_put_in_words(build, op):
    model = lookup(build, op)
    ids = np.array([[0], [7]] if op != "GatherElements" else [[0, 0, 0, 0], [0, 7, 0, 0]])
    with pytest.raises(InputError, match=SAID[op]):
        runner(open_session(model.SerializeToString()))({"ids": ids})
    path, inputs = build.save(model), inputs_of(model.graph)
    with pytest.raises(InputError, match=r"its first run fails: an index"):
        probe(path, inputs, work_dir=build.folder, memory_bytes=4 * GIB, timeout=300, feeds={"ids": ids})


def test_a_node_without_a_name_is_called_by_its_operator(build):
    model = lookup(build, "Gather")
    for node in model.graph.node:
        node.name = ""
    with pytest.raises(InputError, match=r"only −3 … 2 are \(a Gather\): correct the data"):
        runner(open_session(model.SerializeToString()))({"ids": np.array([[7]])})


def test_rows_are_named_where_the_number_is_in_the_data():
    said = "idx=7 must be within the inclusive range [-5,4]"
    feeds = {"x": np.zeros((2, 3), np.float32), "ids": np.array([[0, 1], [2, 7]])}
    assert in_words(said, feeds).startswith("input 'ids' has 7 in row 1 of those that were run together")
    assert in_words(said, {"ids": np.array([[7]])}).startswith("input 'ids' has 7 in row 0, which")
    assert in_words("the shapes do not fit", feeds) is None


@pytest.mark.parametrize("operator", ["Expand", "Tile"])
@pytest.mark.parametrize(("given", "seen"), [([2, 1], True), ([0, 1], False), (None, False)], ids=["2", "0", "fed"])
def test_where_nothing_may_be_left_nothing_is_refused(build, operator, given, seen):
    """Of an empty tensor nothing is looked up: onnxruntime answers, and so do we."""
    node = helper.make_node(operator, ["ids", "by"], ["many"])
    by = [] if given is None else [helper.make_tensor("by", TensorProto.INT64, [2], given)]
    model = build.model(
        [node, helper.make_node("Gather", ["words", "many"], ["y"], name="embed")],
        inputs=[
            build.value("ids", [1, 5], TensorProto.INT32),
            *([] if by else [build.value("by", [2], TensorProto.INT64)]),
        ],
        outputs=[build.value("y", None)],
        initializers=[build.weights("words", (100, 3)), *by],
    )
    assert tables(model) == ((Table("ids", "embed", 100),) if seen else ())


def test_a_repeat_that_is_told_by_a_node_or_by_nothing(build):
    def model(*nodes, initializers=()):
        return build.model(
            list(nodes), inputs=[build.value("ids", [1, 5], TensorProto.INT32)], outputs=[build.value("y", None)],
            initializers=[build.weights("words", (100, 3)), *initializers],
        )  # fmt: skip

    by = helper.make_node("Constant", [], ["by"], value=helper.make_tensor("v", TensorProto.INT64, [2], [2, 1]))
    gather = helper.make_node("Gather", ["words", "many"], ["y"], name="embed")
    assert tables(model(by, helper.make_node("Tile", ["ids", "by"], ["many"]), gather)) == (Table("ids", "embed", 100),)
    # A damaged file, which is refused later, in the runtime's words.
    assert tables(model(helper.make_node("Expand", ["ids"], ["many"]), gather)) == ()

"""What a model's own numbers take, by hand; and how many rows run at a time for it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgemodel_api import reasons
from edgemodel_api.errors import InputError
from edgemodel_compressor.evaluate.runner import BATCH_ROWS
from edgemodel_compressor.footprint import footprint
from edgemodel_compressor.memory import RUN_BYTES, SESSIONS, Estimate, Limit, Sizes, plan_runs, predict
from edgemodel_compressor.steps.gram import taken

MIB = 2**20


def feeds(rows: int) -> dict[str, Any]:
    return {"x": np.zeros((rows, 3), np.float32)}


def test_by_hand(build: Any):
    """x [n, 3] → a [n, 4] → b, and c from a again: a and b stay for the Add, what is made of weights alone does not count."""
    nodes = [
        helper.make_node("Transpose", ["v"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Cast", ["c"], ["y"], to=TensorProto.DOUBLE),
    ]
    model = build.model(
        nodes,
        inputs=[build.value("x", ["N", 3])],
        outputs=[build.value("y", None, TensorProto.DOUBLE)],
        initializers=[build.weights("v", (4, 3))],
    )
    before = model.SerializeToString()
    # a, b and c together; then c and y, which is twice as wide.
    assert footprint(model, feeds(1)) == 3 * 16
    assert footprint(model, feeds(5)) == 5 * 3 * 16
    assert model.SerializeToString() == before


def test_what_nothing_reads_is_gone_and_what_is_asked_for_stays(build: Any):
    """Four outputs of one size, and three of indices that nobody reads."""
    nodes, name = [], "x"
    for i in range(4):
        nodes.append(helper.make_node("Relu", [name], [name := f"y{i}"]))
        nodes.append(helper.make_node("TopK", [name, "k"], ["", f"unread{i}"] if i else [f"top{i}", f"unread{i}"]))
    model = build.model(
        nodes,
        inputs=[build.value("x", ["N", 3])],
        outputs=[build.value(f"y{i}", None) for i in range(4)],
        initializers=[helper.make_tensor("k", TensorProto.INT64, [1], [1])],
    )
    assert 4 * 12 <= footprint(model, feeds(1)) <= 4 * 12 + 8


def test_a_branch_reads_what_was_computed_before(build: Any):
    branch = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "b", [], [build.value("b", None)])
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("ReduceMax", ["a"], ["m"], keepdims=0),
        helper.make_node("Exp", ["x"], ["other"]),
        helper.make_node("Cast", ["m"], ["c"], to=TensorProto.BOOL),
        helper.make_node("If", ["c"], ["i"], then_branch=branch, else_branch=branch),
        helper.make_node("Add", ["i", "other"], ["y"]),
    ]
    model = build.model(nodes, inputs=[build.value("x", ["N", 3])], outputs=[build.value("y", None)])
    assert footprint(model, feeds(100)) >= 3 * 1200


def doubled(times: int) -> list[Any]:
    return [helper.make_node("Concat", [f"c{i}", f"c{i}"], [f"c{i + 1}"], axis=0) for i in range(times)]


LONG = {
    "range": [
        helper.make_node("Range", ["zero", "many", "one"], ["r"]),
        helper.make_node("Cast", ["r"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["f"], ["q"], keepdims=0),
        helper.make_node("Add", ["x", "q"], ["y"]),
    ],
    "concats of concats": [
        helper.make_node("Shape", ["x"], ["c0"]), *doubled(22),
        helper.make_node("Gather", ["c22", "zero"], ["g"]), helper.make_node("Cast", ["g"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ],
    "eight thousand that wait for one": [
        *(helper.make_node("Relu", ["x"], [f"a{i}"]) for i in range(8000)),
        helper.make_node("Sum", [f"a{i}" for i in range(8000)], ["y"]),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", LONG)
def test_small_files_stay_cheap(build: Any, name: str):
    """ONNX keeps a message of a hundred bytes for each number that it follows."""
    model = build.model(
        LONG[name],
        inputs=[build.value("x", ["N", 3])],
        outputs=[build.value("y", None)],
        initializers=[
            helper.make_tensor(n, TensorProto.INT64, [], [v]) for n, v in (("zero", 0), ("many", 10**8), ("one", 1))
        ],
    )
    before, began = psutil.Process().memory_info().rss, time.process_time()
    footprint(model, feeds(1))
    assert time.process_time() - began < 5
    assert psutil.Process().memory_info().rss - before < 100 * MIB


def test_shapes_that_are_computed_are_followed(build: Any):
    """As exporters write a reshape to (batch, 2 · 3)."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], end=1),
        helper.make_node("Concat", ["s", "rest"], ["to"], axis=0),
        helper.make_node("Reshape", ["x", "to"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["y"]),
    ]
    model = build.model(
        nodes, inputs=[build.value("x", ["N", 2, 3])], outputs=[build.value("y", None)],
        initializers=[build.weights("w", (6, 1000)), helper.make_tensor("rest", TensorProto.INT64, [1], [6])],
    )  # fmt: skip
    assert footprint(model, {"x": np.zeros((7, 2, 3), np.float32)}) == 7 * (6 + 1000) * 4


def test_what_cannot_be_inferred_is_not_counted(build: Any):
    nodes = [helper.make_node("NonZero", ["x"], ["i"]), helper.make_node("Relu", ["x"], ["y"])]
    model = build.model(
        nodes,
        inputs=[build.value("x", ["N", 3])],
        outputs=[build.value("y", None), build.value("i", None, TensorProto.INT64)],
    )
    assert footprint(model, feeds(2)) == 24
    assert footprint(build.model([helper.make_node("MatMul", ["x", "x"], ["y"])], inputs=[build.value("x", ["N", 3])],
                                 outputs=[build.value("y", None)]), feeds(2)) == 0  # fmt: skip


def limit(mebibytes: int) -> Limit:
    return Limit(mebibytes * MIB, "what it may take", "raise it")


BASE = Estimate(200 * MIB, "the model")


@given(request=st.integers(0, 2**40), mebibytes=st.integers(150, 10**7), lanes=st.integers(1, 8))
def test_whatever_runs_fits_or_is_refused(request: int, mebibytes: int, lanes: int):
    allowed = limit(mebibytes)
    if request and BASE.peak + SESSIONS * request > allowed.memory_bytes:
        with pytest.raises(InputError) as caught:
            plan_runs(request, BASE, allowed, lanes=lanes)
        assert caught.value.reason == reasons.INSUFFICIENT_MEMORY
        return
    found = plan_runs(request, BASE, allowed, lanes=lanes)
    # What cannot be told is refused by nobody here: `memory.check` has judged the rest.
    assert request == 0 or BASE.peak + found.peak <= allowed.memory_bytes
    assert 1 <= found.rows <= BATCH_ROWS
    assert 1 <= found.lanes <= min(2, lanes)
    assert found.run_bytes == found.rows * request
    assert found.rows == 1 or found.run_bytes <= RUN_BYTES


def test_rows_within_a_size():
    assert plan_runs(4 * MIB, BASE, limit(4096)).within(32 * MIB) == 8
    assert plan_runs(100 * MIB, BASE, limit(4096)).within(32 * MIB) == 1
    assert plan_runs(0, BASE, limit(4096)).within(MIB) == BATCH_ROWS
    assert plan_runs(1, BASE, limit(4096)).within(MIB) == BATCH_ROWS


def test_small_models_run_as_many_rows_as_ever():
    assert plan_runs(MIB, BASE, limit(4096)).rows == BATCH_ROWS


def test_how_much_there_is_beyond_a_gibibyte_changes_nothing():
    """Or a busy neighbour would change the last digits of what is measured."""
    found = {plan_runs(9 * MIB, BASE, limit(mebibytes)) for mebibytes in (1300, 2000, 10**6)}
    assert len(found) == 1


def test_a_large_image_that_does_not_fit_is_refused_with_the_numbers():
    with pytest.raises(InputError) as caught:
        plan_runs(1000 * MIB, BASE, limit(2048))
    assert caught.value.reason == reasons.INSUFFICIENT_MEMORY
    assert caught.value.message == (
        f"compressing this model takes about 2.1 GiB of memory ({BASE.phase}; while it answers one request, its own numbers take 1000.0 MiB, for the source"
        " and for a candidate), and 2.0 GiB are what it may take: raise it to at least 2.2 GiB; or give data with smaller inputs"
    )


def test_rounding_by_data_that_does_not_fit_says_that_it_can_be_left_out():
    sizes = Sizes(3 * MIB, MIB, 3 * MIB)
    alone, rounded = predict(sizes, []), predict(sizes, [], rounding=400 * MIB)
    assert rounded.peak - alone.peak == (400 - 6 * 3) * MIB
    assert predict(sizes, [], rounding=MIB) == alone
    with pytest.raises(
        InputError, match=r"\(rounding weights by the calibration data; while .* or none in data\.calibration$"
    ):
        plan_runs(MIB, rounded, limit(500))


@pytest.mark.parametrize("groups", [1, 4])
def test_what_rounding_takes(groups):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], group=groups), helper.make_node("Conv", ["y", "v"], ["z"])]
    tensors = {"w": np.zeros((16, 8 // groups, 3, 3), "f4"), "v": np.zeros((4, 16, 1, 1), "f4")}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8, 9, 9])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    first = groups * (8 * 9 // groups) ** 2
    assert taken(model) == 16 * (first + 16**2) + 32 * first

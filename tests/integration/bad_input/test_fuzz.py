"""Whatever happens to the bytes of a file: it is taken, or refused with a message. Never another exception."""

import shutil
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgemodel_api.errors import InputError
from edgemodel_compressor.data import open_dataset
from edgemodel_compressor.formats.onnx_model import load_model

MAX_BYTES = 2**20
#: (position as a share of the file, new byte)
FLIPS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4)


def flipped(content: bytes, flips: list[tuple[float, int]]) -> bytes:
    changed = bytearray(content)
    for place, value in flips:
        changed[int(place * len(changed))] = value
    return bytes(changed)


@pytest.fixture(scope="session")
def model(session_build: Any) -> bytes:
    """With a subgraph, a constant, a function and typed data, so that flips reach all of it."""
    b = session_build
    branch = helper.make_graph([helper.make_node("Identity", ["h"], ["o"])], "b", [], [b.value("o", None)])
    other = helper.make_graph([helper.make_node("Neg", ["h"], ["n"])], "b", [], [b.value("n", None)])
    typed = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[4], float_data=[1, 2, 3, 4])
    condition = TensorProto(name="c", data_type=TensorProto.BOOL, dims=[], int32_data=[1])
    function = helper.make_function(
        "local", "F", ["i"], ["o"], [helper.make_node("Relu", ["i"], ["o"])], [helper.make_opsetid("", 17)]
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Constant", [], ["k"], value=typed),
        helper.make_node("Add", ["m", "k"], ["a"]),
        helper.make_node("F", ["a"], ["h"], domain="local"),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=other),
    ]
    made = b.model(nodes, initializers=[b.weights(), condition], functions=(function,), domains=("local",))
    content = made.SerializeToString()
    load_model(b.save(made), work_dir=b.folder, max_bytes=MAX_BYTES)
    return content


def check_model(build: Any, content: bytes) -> None:
    message = None
    try:
        load_model(build.save(content, "fuzz.onnx"), work_dir=build.folder, max_bytes=MAX_BYTES)
    except InputError as error:
        message = error.message
    assert message is None or 20 < len(message) < 1500


@given(flips=FLIPS)
def test_flipped_bytes_of_a_model(session_build: Any, model: bytes, flips):
    check_model(session_build, flipped(model, flips))


@given(share=st.floats(0, 1))
def test_truncated_model(session_build: Any, model: bytes, share: float):
    check_model(session_build, model[: int(share * len(model))])


@given(st.binary(max_size=300))
def test_any_bytes_as_a_model(session_build: Any, content: bytes):
    check_model(session_build, content)


@pytest.fixture(scope="session", params=["stored", "deflated"])
def data(session_build: Any, request: pytest.FixtureRequest) -> bytes:
    save = np.savez if request.param == "stored" else np.savez_compressed
    path = session_build.folder / f"{request.param}.npz"
    save(path, x=np.asfortranarray(np.arange(30, dtype=np.float64).reshape(10, 3)), y=np.arange(10))
    return path.read_bytes()


def check_data(build: Any, inputs: Any, content: bytes) -> None:
    path = build.folder / "fuzz.npz"
    path.write_bytes(content)
    work = build.folder / "work"
    work.mkdir(exist_ok=True)
    message = None
    try:
        found = open_dataset(path, inputs, labels="y", work_dir=work, max_bytes=MAX_BYTES, what="data.validation")
        assert sum(len(b["x"]) for b in found.batches(4)) == found.samples
    except InputError as error:
        message = error.message
    assert message is None or (20 < len(message) < 1500 and list(work.iterdir()) == [])
    shutil.rmtree(work)


@given(flips=FLIPS)
def test_flipped_bytes_of_data(session_build: Any, inputs: Any, data: bytes, flips):
    check_data(session_build, inputs, flipped(data, flips))


@given(share=st.floats(0, 1))
def test_truncated_data(session_build: Any, inputs: Any, data: bytes, share: float):
    check_data(session_build, inputs, data[: int(share * len(data))])


@given(content=st.binary(max_size=300))
def test_any_bytes_as_data(session_build: Any, inputs: Any, content: bytes):
    check_data(session_build, inputs, b"PK\x03\x04" + content)


@pytest.fixture(scope="session")
def inputs(session_build: Any) -> Any:
    path = session_build.save(session_build.model(), "inputs.onnx")
    return load_model(path, work_dir=session_build.folder, max_bytes=MAX_BYTES).inputs

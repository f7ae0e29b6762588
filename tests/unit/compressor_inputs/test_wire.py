"""The walk over protobuf bytes agrees with the parser on what is whole, and knows what parsing costs."""

import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgemodel_api.errors import InputError
from edgemodel_compressor.formats import wire

MODEL = onnx.ModelProto.DESCRIPTOR
PLENTY = 2**30


def scan(content: bytes, limit: int = PLENTY) -> wire.Cost:
    return wire.scan(content, MODEL, what="m", max_memory=limit)


def small_model() -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [TensorProto(name="w", data_type=1, dims=[2], float_data=[1, 2])],
    )
    return helper.make_model(graph).SerializeToString()


def test_messages_are_counted():
    # model, opset, graph, node, tensor, and for each value: info, type, tensor type, shape, two dimensions.
    assert scan(small_model()).messages == 5 + 2 * 6


@pytest.mark.parametrize("cut", range(1, len(small_model())))
def test_what_the_scan_lets_through_the_parser_takes(cut: int):
    content = small_model()[:cut]
    try:
        scan(content)
    except InputError:
        return
    onnx.ModelProto.FromString(content)


@given(st.binary(max_size=200))
def test_any_bytes_are_scanned_or_refused(content: bytes):
    try:
        scan(content)
    except InputError:
        return
    try:
        onnx.ModelProto.FromString(content)
    except DecodeError:
        # Padded varints and the like: the parser is the stricter one there, and has the last word.
        return


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def message(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


BOMBS = {
    "empty nodes": message(7, b"\x0a\x00" * 10_000),
    "packed zeros": message(7, message(5, message(7, bytes(300_000)))),
    "single numbers": message(7, message(5, b"\x38\x00" * 150_000)),
    "empty strings": message(7, message(5, b"\x32\x00" * 50_000)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_cost_is_seen_before_it_is_paid(name: str):
    with pytest.raises(InputError, match="unpack to more than"):
        scan(BOMBS[name], limit=10**6)


def test_float_data_costs_what_it_is():
    tensor = TensorProto(name="w", data_type=1, dims=[100_000], float_data=[0.0] * 100_000)
    content = message(7, message(5, tensor.SerializeToString()))
    assert scan(content).memory_bytes < 2 * len(content)

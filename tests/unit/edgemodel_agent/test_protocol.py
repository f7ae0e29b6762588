"""Open Inference Protocol messages: tables of good and bad requests, and round trips of tensors."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgemodel_agent.runtimes.base import DATATYPES, TensorSpec, blank, fixed_rows
from edgemodel_agent.server import protocol, tensors
from edgemodel_api.errors import InputError

INPUTS = (TensorSpec("x", "FP32", (None, 2)),)
OUTPUTS = (TensorSpec("y", "FP32", (None, 2)), TensorSpec("label", "BYTES", (None,)))
X = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2.5]}


def decode(message, header_length=None, inputs=INPUTS, outputs=OUTPUTS):
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return protocol.decode_request(body, header_length, inputs, outputs)


GOOD = {
    "flat": X,
    "nested": {**X, "data": [[1, 2.5]]},
    "with unknown fields": {**X, "parameters": {"note": 1}, "more": None},
}


@pytest.mark.parametrize("name", GOOD)
def test_good_inputs(name):
    request = decode({"id": "7", "inputs": [GOOD[name]]})
    assert request.feeds["x"].dtype == np.float32
    assert request.feeds["x"].tolist() == [[1.0, 2.5]]
    assert request.id == "7"
    assert [o.name for o in request.outputs] == ["y", "label"]


BAD_MESSAGES = {
    "not json": (b"{", "JSON cannot be read"),
    "not utf-8": (b'"\xff"', "JSON cannot be read"),
    "deeply nested": (b"[" * 100_000, "JSON cannot be read"),
    "not an object": ([], "not a JSON object"),
    "no inputs": ({}, "no list of inputs"),
    "input that is no object": ({"inputs": [3]}, "an object with a name"),
    "missing input": ({"inputs": []}, "input 'x' is missing"),
    "unknown input": ({"inputs": [{**X, "name": "z"}]}, "'z' is not one of the model's: x"),
    "twice": ({"inputs": [X, X]}, "given twice"),
    "id that is a number": ({"id": 7, "inputs": [X]}, "id must be a string"),
    "unknown output": ({"inputs": [X], "outputs": [{"name": "z"}]}, "output 'z' is not one of the model's: y, label"),
    "output twice": ({"inputs": [X], "outputs": [{"name": "y"}, {"name": "y"}]}, "asked for twice"),
    "outputs no list": ({"inputs": [X], "outputs": {"name": "y"}}, "must be a list"),
    "classification": (
        {"inputs": [X], "outputs": [{"name": "y", "parameters": {"classification": 2}}]}, "not supported"),
    "binary flag of another type": (
        {"inputs": [X], "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}, "must be true or false"),
    "parameters no object": ({"inputs": [X], "parameters": 1}, "parameters must be an object"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_MESSAGES)
def test_bad_messages_say_what_to_change(name):
    message, text = BAD_MESSAGES[name]
    with pytest.raises(InputError, match=text):
        decode(message)


BAD_INPUTS = {
    "wrong datatype": ({"datatype": "FP64"}, "datatype 'FP64', the model needs FP32"),
    "no datatype": ({"datatype": None}, "the model needs FP32"),
    "wrong rank": ({"shape": [2]}, r"shape \[2\] does not fit the model's \[any, 2\]"),
    "wrong size": ({"shape": [1, 3]}, r"does not fit the model's \[any, 2\]"),
    "negative size": ({"shape": [-1, 2]}, "sizes of 0 or more"),
    "bool as size": ({"shape": [True, 2]}, "sizes of 0 or more"),
    "giant shape": ({"shape": [2**62, 2]}, "sizes of 0 or more"),
    "shape no list": ({"shape": "2"}, "sizes of 0 or more"),
    "too few elements": ({"data": [1]}, "means 2 elements, data holds 1"),
    "too many elements": ({"data": [1, 2, 3]}, "means 2 elements, data holds 3"),
    "ragged": ({"shape": [2, 2], "data": [[1], [2, 3, 4]]}, "lists of 2 elements"),
    "list among numbers": ({"data": [1, [2]]}, "lists of 2 elements"),
    "too deep": ({"data": [[[1, 2]]]}, "lists of 2 elements"),
    "string": ({"data": ["1", 2]}, "must be numbers"),
    "long string among numbers": ({"data": ["1" * 10**6, 2]}, "must be numbers"),
    "null": ({"data": [None, 2]}, "must be numbers"),
    "bool": ({"data": [True, 2]}, "must be numbers"),
    "object": ({"data": [{}, 2]}, "must be numbers"),
    "number beyond floats": ({"data": [10**400, 2]}, "must be numbers"),
    "data no list": ({"data": 3}, "data must be a list"),
    "no data": ({"data": ...}, "no data and no parameters.binary_data_size"),
    "data twice": ({"parameters": {"binary_data_size": 0}}, "has both"),
    "parameters no object": ({"parameters": []}, "parameters must be an object"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_inputs_say_what_to_change(name):
    changes, text = BAD_INPUTS[name]
    tensor = {k: v for k, v in {**X, **changes}.items() if v is not ...}
    with pytest.raises(InputError, match=text):
        decode({"inputs": [tensor]})


INTEGERS = {
    "largest": ("UINT64", [2**64 - 1, 0], True),
    "too large": ("UINT64", [2**64, 0], False),
    "negative for unsigned": ("UINT8", [-1], False),
    "256 for UINT8": ("UINT8", [256], False),
    "smallest": ("INT8", [-128, 127], True),
    "beneath it": ("INT8", [-129], False),
    "fraction": ("INT32", [1.5], False),
    "whole float": ("INT32", [1.0], False),
    "bool as number": ("INT32", [True], False),
    "bools": ("BOOL", [True, False], True),
    "number as bool": ("BOOL", [1], False),
    "strings": ("BYTES", ["a", "é"], True),
    "number as string": ("BYTES", [1], False),
}


@pytest.mark.parametrize("name", INTEGERS)
def test_ranges_of_types(name):
    datatype, data, good = INTEGERS[name]
    if good:
        found = tensors.from_json(data, datatype, (len(data),), "x")
        assert found.dtype == DATATYPES[datatype]
        assert found.tolist() == data
    else:
        with pytest.raises(InputError, match=f"data of {datatype} must be"):
            tensors.from_json(data, datatype, (len(data),), "x")


def binary(tensor_bytes: bytes, *, size=None, claimed=None, **changes) -> tuple[bytes, str]:
    tensor = {k: v for k, v in X.items() if k != "data"}
    tensor["parameters"] = {"binary_data_size": len(tensor_bytes) if size is None else size}
    head = json.dumps({"inputs": [{**tensor, **changes}]}).encode()
    return head + tensor_bytes, str(len(head)) if claimed is None else claimed


def test_binary_input():
    body, length = binary(np.array([1, 2.5], "<f4").tobytes())
    assert decode(body, length).feeds["x"].tolist() == [[1.0, 2.5]]


EIGHT = bytes(8)
BAD_BINARY = {
    "size beyond the body": (binary(EIGHT, size=9), "not within the 8 bytes"),
    "negative size": (binary(EIGHT, size=-1), "not within"),
    "size that is a text": (binary(EIGHT, size="8"), "not within"),
    "size that is true": (binary(EIGHT, size=True), "not within"),
    "bytes left over": (binary(EIGHT + b"x", size=8), "1 bytes follow the last binary input"),
    "not what the shape says": (binary(bytes(4)), "means 8 bytes, got 4"),
    "length beyond the body": (binary(EIGHT, claimed="99999"), "not a number of bytes within the body"),
    "length that is no number": (binary(EIGHT, claimed="ten"), "not a number"),
    "negative length": (binary(EIGHT, claimed="-1"), "not a number"),
    "digits of another script": (binary(EIGHT, claimed="١"), "not a number"),
    "length inside the JSON": (binary(EIGHT, claimed="10"), "JSON cannot be read"),
    "no length": ((binary(EIGHT)[0], None), "set Inference-Header-Content-Length"),
}


@pytest.mark.parametrize("name", BAD_BINARY)
def test_bad_binary_says_what_to_change(name):
    (body, length), text = BAD_BINARY[name]
    with pytest.raises(InputError, match=text):
        decode(body, length)


BAD_STRINGS = {
    "too few": (b"\x01\0\0\0a", 2, "2 strings need at least 8 bytes"),
    "giant count": (b"\x01\0\0\0a", 2**39, "strings need at least"),
    "length beyond the end": (b"\xff\xff\xff\xffa", 1, "end within a string"),
    "bytes left over": (b"\x01\0\0\0ab", 1, "1 bytes follow the last of 1 strings"),
    "not UTF-8": (b"\x01\0\0\0\xff", 1, "not UTF-8"),
}


@pytest.mark.parametrize("name", BAD_STRINGS)
def test_bad_binary_strings(name):
    raw, count, text = BAD_STRINGS[name]
    with pytest.raises(InputError, match=text):
        tensors.from_binary(raw, "BYTES", (count,), "x")


def arrays_of(datatype: str, *, finite: bool) -> st.SearchStrategy[np.ndarray]:
    shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
    if datatype == "BYTES":
        return shapes.flatmap(
            lambda shape: st.lists(
                st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
                min_size=int(np.prod(shape)),
                max_size=int(np.prod(shape)),
            ).map(lambda texts: np.array([*texts, None], object)[:-1].reshape(shape))
        )
    elements = {"allow_nan": False, "allow_infinity": False} if finite and datatype.startswith("FP") else None
    return hnp.arrays(DATATYPES[datatype], shapes, elements=elements)


def same(a: np.ndarray, b: np.ndarray) -> None:
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert a.tolist() == b.tolist() or a.tobytes() == b.tobytes()


@pytest.mark.parametrize("datatype", DATATYPES)
@settings(max_examples=30)
@given(st.data())
def test_json_round_trip(datatype, data):
    array = data.draw(arrays_of(datatype, finite=True))
    text = json.dumps(tensors.to_json(array, datatype), allow_nan=False)
    same(tensors.from_json(json.loads(text), datatype, array.shape, "x"), array)
    if array.ndim:
        same(tensors.from_json(array.tolist(), datatype, array.shape, "x"), array)


@pytest.mark.parametrize("datatype", DATATYPES)
@settings(max_examples=30)
@given(st.data())
def test_binary_round_trip(datatype, data):
    array = data.draw(arrays_of(datatype, finite=False))
    same(tensors.from_binary(tensors.to_binary(array, datatype), datatype, array.shape, "x"), array)


def test_what_is_not_finite_is_null_in_json_and_exact_in_binary():
    array = np.array([1.5, np.nan, np.inf, -np.inf], np.float32)
    assert tensors.to_json(array, "FP32") == [1.5, None, None, None]
    assert tensors.from_binary(tensors.to_binary(array, "FP32"), "FP32", (4,), "x").tobytes() == array.tobytes()


@given(st.binary(max_size=200), st.none() | st.integers(0, 250).map(str))
def test_any_bytes_are_a_request_or_an_input_error(body, length):
    with pytest.raises(InputError):
        decode(body, length)


def results() -> dict[str, np.ndarray]:
    return {"y": np.array([[1, 2.5]], np.float32), "label": np.array(["é"], object)}


def encode(message) -> protocol.Body:
    return protocol.encode_response("m", "r1", decode({"inputs": [X], **message}), results(), OUTPUTS)


def test_json_response():
    body = encode({"id": "a\ud800"})
    assert json.loads(body.content) == {
        "model_name": "m", "model_version": "r1", "id": "a\ud800",
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.5]},
            {"name": "label", "datatype": "BYTES", "shape": [1], "data": ["é"]},
        ],
    }  # fmt: skip
    assert body.headers == {"Content-Type": "application/json"}


def test_without_an_id_none_comes_back():
    assert "id" not in json.loads(encode({}).content)


def test_only_what_is_asked_for_in_that_order():
    found = json.loads(encode({"outputs": [{"name": "label"}, {"name": "y"}]}).content)
    assert [o["name"] for o in found["outputs"]] == ["label", "y"]
    assert [o["name"] for o in json.loads(encode({"outputs": [{"name": "y"}]}).content)["outputs"]] == ["y"]


BINARY_OUTPUTS = {
    "all": ({"parameters": {"binary_data_output": True}}, ["y", "label"]),
    "one": ({"outputs": [{"name": "y", "parameters": {"binary_data": True}}, {"name": "label"}]}, ["y"]),
    "all but one": (
        {"parameters": {"binary_data_output": True},
         "outputs": [{"name": "y"}, {"name": "label", "parameters": {"binary_data": False}}]}, ["y"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BINARY_OUTPUTS)
def test_binary_response(name):
    message, names = BINARY_OUTPUTS[name]
    body = encode(message)
    assert body.headers == {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(body.header_length),
    }
    outputs = json.loads(body.content[: body.header_length])["outputs"]
    assert [o["name"] for o in outputs if "parameters" in o] == names
    assert all(("data" in o) != ("parameters" in o) for o in outputs)
    expected = {"y": struct.pack("<2f", 1, 2.5), "label": b"\x02\0\0\0" + "é".encode()}
    assert body.content[body.header_length :] == b"".join(expected[n] for n in names)
    assert [o["parameters"]["binary_data_size"] for o in outputs if "parameters" in o] == [
        len(expected[n]) for n in names
    ]


def test_a_scalar_and_an_undeclared_shape():
    spec = (TensorSpec("x", "INT64", ()),)
    assert (
        decode({"inputs": [{"name": "x", "datatype": "INT64", "shape": [], "data": [3]}]}, inputs=spec).feeds["x"].shape
        == ()
    )
    assert decode({"inputs": [{"name": "x", "datatype": "INT64", "shape": [1, 1], "data": [3]}]}, inputs=spec).feeds[
        "x"
    ].shape == (1, 1)


def test_rows_and_blanks_follow_the_model():
    specs = (TensorSpec("x", "FP32", (None, 2)), TensorSpec("t", "BYTES", (4,)))
    assert fixed_rows(specs) == 4
    assert fixed_rows(specs[:1]) == 1
    feeds = blank(specs)
    assert feeds["x"].tolist() == [[0.0, 0.0]]
    assert feeds["t"].tolist() == [""] * 4

"""The cache: what fits comes back, everything else is as if it were not there."""

import json
import os

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgemodel_compressor.cache import Cache, Entry, content_key, context_of, encoded, model_digest

KEY = "a" * 64
ENTRY = Entry(file_digest="b" * 64, file_bytes=7, size_bytes=5, quantized=("n",), notes=("x",), complete=True)


@pytest.fixture
def cache(tmp_path):
    (tmp_path / "work").mkdir()
    return Cache.at(str(tmp_path / "cache"), "context", tmp_path / "work")


def test_what_was_kept_comes_back(cache):
    assert cache.entry(KEY) is None
    cache.keep(KEY, ENTRY)
    assert cache.entry(KEY) == ENTRY
    assert cache.on
    assert not Cache(None).on
    assert Cache(None).entry(KEY) is None


@pytest.mark.parametrize("kind", ["bool", "int64", "float64", "float32", ">i4"])
def test_rows_come_back_as_they_were(kind):
    rows = np.arange(5).astype(kind)
    row_type, text = encoded(rows)
    found = ENTRY.replace(row_type=row_type, rows=text).array(5)
    assert found.tolist() == rows.tolist()
    assert found.dtype == rows.dtype.newbyteorder("<")
    assert ENTRY.replace(row_type=row_type, rows=text).array(6) is None


def test_rows_that_are_none_are_not_believed():
    row_type, text = encoded(np.array([1.0, np.nan]))
    assert ENTRY.replace(row_type=row_type, rows=text).array(2) is None
    assert ENTRY.replace(row_type="|O8", rows=text).array(2) is None
    assert ENTRY.replace(row_type="<f8", rows="%%%").array(2) is None
    assert encoded(np.zeros((2, 2))) == ("", "")


@settings(max_examples=60)
@given(data=st.data())
def test_a_damaged_entry_is_ignored(tmp_path_factory, data):
    cache = Cache.at(str(tmp_path_factory.mktemp("c")), "", tmp_path_factory.mktemp("w"))
    cache.keep(KEY, ENTRY)
    path = cache.folder / f"{KEY}.json"
    content = bytearray(path.read_bytes())
    index = data.draw(st.integers(0, len(content) - 1))
    content[index] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), index]))])
    assert cache.entry(KEY) is None


HOSTILE = {
    "no JSON": b"x",
    "another type": b"[1]",
    "a negative size": json.dumps({"sizeBytes": -1}).encode(),
    "a digest that is a path": json.dumps({"fileDigest": "../../etc/passwd"}).encode(),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_an_entry_with_a_right_checksum_and_wrong_content_is_ignored(cache, body):
    cache._write(KEY, body)
    assert cache.entry(KEY) is None


def test_a_pipe_does_not_block(cache):
    os.mkfifo(cache.folder / f"{KEY}.json")
    assert cache.entry(KEY) is None


def test_a_folder_that_others_may_write_is_not_used(tmp_path):
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    assert not Cache.at(str(open_to_all), "", tmp_path).on
    assert not Cache.at("/dev/null/x", "", tmp_path).on
    assert Cache.at(str(tmp_path / "new"), "", tmp_path).on


def test_what_was_not_used_for_longest_goes_first(cache):
    small = Cache(cache.folder, cache.context, cache.work_dir, most_bytes=2 * 200)
    for index, name in enumerate("abc"):
        cache._write(name * 64, b"x" * 100)
        os.utime(cache.folder / f"{name * 64}.json", (index, index))
    small.trim()
    assert sorted(p.name[0] for p in cache.folder.iterdir()) == ["b", "c"]
    small.trim()
    assert len(list(cache.folder.iterdir())) == 2


def network(value):
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(np.full(2, value, np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_a_trained_network_comes_back_unless_its_file_was_changed(cache):
    model = network(1.0)
    assert cache.network(KEY) is None
    cache.keep_network(KEY, model, ("learned",))
    found, notes = cache.network(KEY)
    assert (model_digest(found), notes) == (model_digest(model), ("learned",))
    onnx.save(network(2.0), cache.folder / f"{KEY}.onnx")
    assert cache.network(KEY) is None
    assert model_digest(network(2.0)) != model_digest(model)


def test_everything_that_decides_a_number_is_in_the_key(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    base = context_of({"v": tmp_path / "a"}, {"seed": 0}, "cpu")
    assert base == context_of({"v": tmp_path / "a"}, {"seed": 0}, "cpu")
    others = {
        context_of({"v": tmp_path / "b"}, {"seed": 0}, "cpu"),
        context_of({"w": tmp_path / "a"}, {"seed": 0}, "cpu"),
        context_of({"v": tmp_path / "a"}, {"seed": 1}, "cpu"),
        context_of({"v": tmp_path / "a"}, {"seed": 0}, "other"),
    }
    assert base not in others
    assert len(others) == 4
    assert content_key("a", 1) != content_key("a", 2)

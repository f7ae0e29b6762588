"""Models and arrays become the files that a Job reads."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgemodel.given import data_file, model_file
from edgemodel_api.errors import InputError


def data(given, labels=None, *, folder, model=Path("m.onnx"), what="validation"):
    return data_file(given, labels, what=what, folder=folder, model=model)


def test_a_model_is_a_path_or_a_message(tmp_path, make_model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert model_file("m.onnx", tmp_path) == tmp_path / "m.onnx"
    assert model_file(Path("/x/m.tflite"), tmp_path) == Path("/x/m.tflite")
    written = model_file(make_model("x", name="My Net/v2"), tmp_path)
    assert written.name == "my-net-v2.onnx"
    assert onnx.load(written) == make_model("x", name="My Net/v2")


@pytest.mark.parametrize("name", ["", "../../etc", "…"])
def test_the_name_of_a_graph_is_no_path(tmp_path, make_model, name):
    assert model_file(make_model("x", name=name), tmp_path).parent == tmp_path


def test_what_is_no_model(tmp_path):
    with pytest.raises(
        InputError, match=r"model is a builtins.dict: give the path of an ONNX or TFLite file, or an onnx"
    ):
        model_file({}, tmp_path)


def test_a_message_without_a_graph_is_no_model(tmp_path):
    with pytest.raises(
        InputError, match=r"^student is an empty onnx.ModelProto, without a graph: give one that was loaded"
    ):
        model_file(onnx.ModelProto(), tmp_path, "student")
    assert not list(tmp_path.iterdir())


def test_arrays_are_written_under_their_names_and_the_same_bytes_each_time(tmp_path):
    arrays = {"file": np.arange(6.0).reshape(2, 3), "a:0": [[1, 2], [3, 4]], "words": np.array(["ä", "b"])}
    path, labels = data(arrays, folder=tmp_path)
    first = path.read_bytes()
    with np.load(path) as found:
        assert sorted(found) == ["a:0", "file", "words"]
        assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    assert labels is None
    assert data(dict(reversed(arrays.items())), folder=tmp_path)[0].read_bytes() == first


def test_one_array_is_the_only_input_s(tmp_path, make_model):
    model = model_file(make_model("x"), tmp_path)
    path, name = data(np.zeros((4, 3)), [0, 1, 0, 1], folder=tmp_path, model=model)
    with np.load(path) as found:
        assert {n: found[n].shape for n in found} == {"x": (4, 3), "labels": (4,)}
    assert name == "labels"


def test_labels_beside_an_input_of_that_name(tmp_path):
    path, name = data({"labels": np.zeros((2, 3))}, np.ones(2), folder=tmp_path)
    with np.load(path) as found:
        assert (name, sorted(found)) == ("labels_", ["labels", "labels_"])


def test_a_path_stays_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert data("v.npz", "y", folder=tmp_path) == (tmp_path / "v.npz", "y")
    assert data(None, folder=tmp_path) == (None, None)


class OnTheGraphicsCard:
    def __array__(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


WRONG = {
    "objects": ({"x": [None, object()]}, None, "'x' holds Python objects"),
    "ragged": ({"x": [[1], [1, 2]]}, None, "'x' cannot be made a numpy array: setting an array element"),
    "elsewhere": ({"x": OnTheGraphicsCard()}, None, "can't convert cuda:0"),
    "no name": ({0: [1]}, None, "0 is no name of an input"),
    "labels that are not there": ({"x": [1]}, "y", "there are no labels 'y' among 'x'"),
    "labels of a file": ("v.npz", np.zeros(3), "the labels are an array, but validation is a file"),
    "labels of nothing": (None, np.zeros(3), "the labels are an array, but validation is not given"),
}  # fmt: skip


@pytest.mark.parametrize(("given", "labels", "message"), WRONG.values(), ids=WRONG)
def test_what_is_no_data(tmp_path, given, labels, message):
    with pytest.raises(InputError, match=message):
        data(given, labels, folder=tmp_path)


def test_one_array_for_a_model_of_which_it_is_not_known_which_input(tmp_path, make_model):
    two = model_file(make_model("a", "b"), tmp_path)
    with pytest.raises(InputError, match=r"give arrays by the names of the model's inputs, .*: the model has 2: a, b"):
        data(np.zeros((2, 3)), folder=tmp_path, model=two)
    (tmp_path / "broken.onnx").write_bytes(b"\xff\xff")
    for name in ("broken.onnx", "m.tflite", "none.onnx"):
        with pytest.raises(InputError, match="give arrays by the names of the model's inputs"):
            data(np.zeros((2, 3)), folder=tmp_path, model=tmp_path / name)

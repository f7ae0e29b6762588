"""Good models are taken, whatever their exporter's habits; sessions and saved files are the same each time."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemodel_api.edgemodel import Format
from edgemodel_api.errors import InputError
from edgemodel_api.reasons import NOT_SUPPORTED
from edgemodel_compressor import formats
from edgemodel_compressor.formats import check_formats
from edgemodel_compressor.formats.onnx_model import SourceModel, load_model, open_session, runtime_message, save_model
from edgemodel_compressor.formats.structure import MAX_IR, MAX_OPSET, MIN_OPSET


def load(build: Any, model: Any, **more: Any) -> SourceModel:
    return load_model(build.save(model), work_dir=build.folder, max_bytes=2**20, **more)


def test_what_is_known_of_a_model(build: Any):
    found = load(build, build.model())
    assert [(s.name, s.dtype.name, s.shape) for s in found.inputs] == [("x", "float32", (None, 3))]
    assert [(s.name, s.shape_text) for s in found.outputs] == [("y", "[N, 4]")]
    assert found.fixed_batch is None
    assert found.path.stat().st_size == found.size_bytes
    assert len(found.sha256) == 64


BATCHES = {"free": ("N", None), "one": (1, 1), "eight": (8, 8), "minus one": (-1, None)}


@pytest.mark.parametrize("name", BATCHES)
def test_fixed_batch(build: Any, name: str):
    declared, expected = BATCHES[name]
    assert load(build, build.model(inputs=[build.value("x", [declared, 3])])).fixed_batch == expected


def test_initializers_among_the_inputs_are_defaults(build: Any):
    model = build.model(inputs=[build.value("x", ["N", 3]), build.value("w", [3, 4])])
    model.ir_version = 3
    assert [s.name for s in load(build, model).inputs] == ["x"]


def test_outputs_without_shape_or_type(build: Any):
    bare = onnx.ValueInfoProto(name="y")
    found = load(build, build.model(outputs=[bare]))
    assert found.outputs[0].shape == ()


def test_functions_and_subgraphs_with_outer_names(build: Any):
    function = helper.make_function(
        "local", "F", ["i"], ["o"], [helper.make_node("Relu", ["i"], ["o"])], [helper.make_opsetid("", 17)]
    )
    branches = {
        f"{kind}_branch": helper.make_graph(
            [helper.make_node("MatMul", ["h", "w"], [kind])], kind, [], [build.value(kind, None)]
        )
        for kind in ("then", "else")
    }
    nodes = [
        helper.make_node("F", ["x"], ["h"], domain="local"),
        helper.make_node("If", ["c"], ["y"], **branches),
    ]
    condition = numpy_helper.from_array(np.array(True), "c")
    model = build.model(nodes, initializers=[build.weights(), condition], functions=(function,), domains=("local",))
    assert load(build, model).inputs[0].name == "x"
    assert open_session(build.save(model)).run(None, {"x": np.ones((2, 3), np.float32)})[0].shape == (2, 4)


FINE = {
    "mask of minus infinity": np.array([[0, -np.inf], [0, 0]], np.float32),
    "one NaN as a constant": np.array(np.nan, np.float32),
    "infinity as a limit": np.array([np.inf], np.float32),
}


@pytest.mark.parametrize("name", FINE)
def test_numbers_that_constants_may_hold(build: Any, name: str):
    nodes = [helper.make_node("Max", ["x", "k"], ["y"])]
    load(
        build,
        build.model(
            nodes, inputs=[build.value("x", ["N", 2])], initializers=[numpy_helper.from_array(FINE[name], "k")]
        ),
    )


TYPES = {
    "float16": np.array([1.5, 2, 3], np.float16), "int8": np.array([1, -2, 3], np.int8), "bool": np.array([True, False]),
    "text": np.array(["a", "b"], dtype=object), "float64": np.array([1.0]), "uint64": np.array([2**63], np.uint64),
    "complex": np.array([1 + 2j], np.complex64), "empty": np.zeros((0, 3), np.float32),
}  # fmt: skip


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("raw", [True, False])
def test_tensors_of_every_type(build: Any, name: str, *, raw: bool):
    array = TYPES[name]
    if raw and array.dtype != object:
        tensor = numpy_helper.from_array(array, "extra")
    else:
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor = helper.make_tensor("extra", kind, array.shape, array.reshape(-1).tolist())
    load(build, build.model(initializers=[build.weights(), tensor]))


@pytest.mark.parametrize("name", ["INT4", "UINT4", "BFLOAT16", "FLOAT8E4M3FN", "FLOAT4E2M1"])
@pytest.mark.parametrize("raw", [True, False])
def test_tensors_of_small_types(build: Any, name: str, *, raw: bool):
    kind = getattr(TensorProto, name)
    if raw:
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        tensor = numpy_helper.from_array(np.array([1, 0, 1], dtype), "extra")
    else:
        tensor = helper.make_tensor("extra", kind, [3], [1, 0, 1])
    assert tensor.HasField("raw_data") is raw
    load(build, build.model(initializers=[build.weights(), tensor]))


def test_external_data_is_folded_in(build: Any):
    weights = build.weights()
    (build.folder / "sub").mkdir()
    (build.folder / "sub" / "w.bin").write_bytes(b"head" + weights.raw_data + b"tail")
    model = build.model(initializers=[build.external(weights, "sub/w.bin", offset=4, length=48)])
    work = build.folder / "work"
    work.mkdir()
    path = build.save(model)
    found = load_model(path, work_dir=work, max_bytes=2**20, external_dir=build.folder)
    assert found.path.parent == work
    rows = np.ones((2, 3), np.float32)
    expected = rows @ numpy_helper.to_array(weights)
    np.testing.assert_allclose(open_session(found.path).run(None, {"x": rows})[0], expected, rtol=1e-6)
    again = load_model(path, work_dir=work, max_bytes=2**20, external_dir=build.folder)
    assert again.sha256 == found.sha256
    with pytest.raises(InputError, match="only the model file itself was fetched"):
        load_model(path, work_dir=work, max_bytes=2**20, external_dir=None)


def test_external_data_through_a_link_that_stays_inside(build: Any):
    weights = build.weights()
    (build.folder / "blob").write_bytes(weights.raw_data)
    (build.folder / "w.bin").symlink_to("blob")
    model = build.model(initializers=[build.external(weights, "w.bin")])
    load(build, model, external_dir=build.folder)


def test_saved_bytes_are_the_same_and_whole(build: Any):
    model = build.model()
    model.metadata_props.add(key="b", value="1")
    paths = [build.folder / name for name in ("a.onnx", "b.onnx")]
    assert save_model(model, paths[0]) == save_model(onnx.ModelProto.FromString(model.SerializeToString()), paths[1])
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(p.name for p in build.folder.iterdir()) == ["a.onnx", "b.onnx"]


@pytest.mark.parametrize(("opset", "ir"), [(MIN_OPSET, 3), (17, 8), (MAX_OPSET, MAX_IR)])
def test_the_limits_are_those_of_the_installed_runtime(build: Any, opset: int, ir: int):
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    model = build.model(nodes, outputs=[build.value("y", ["N", 3])], initializers=[], opset=opset)
    model.ir_version = ir
    load(build, model)
    open_session(model.SerializeToString())


def test_the_runtime_takes_no_later_versions(build: Any):
    model = build.model()
    model.ir_version = MAX_IR + 1
    with pytest.raises(InputError, match=rf"onnxruntime {ort.__version__}.* Unsupported model IR version: 15"):
        open_session(model.SerializeToString())


def test_sessions_from_file_and_bytes_agree(build: Any):
    path: Path = build.save(build.model())
    rows = {"x": np.ones((1, 3), np.float32)}
    one, two = (open_session(p, threads=2).run(None, rows)[0] for p in (path, path.read_bytes()))
    np.testing.assert_array_equal(one, two)


def test_messages_lose_the_runtime_s_own_places():
    text = (
        "[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/onnxruntime/core/graph/model.cc:256 onnxruntime::Model::Model("
        "onnx::ModelProto&&, const onnxruntime::PathString&, const logging::Logger&) Unsupported model IR version: 15\n"
    )
    assert runtime_message(text) == "Unsupported model IR version: 15"


def test_a_format_whose_library_is_missing_names_its_extra(monkeypatch: pytest.MonkeyPatch):
    there: set[str] = {"ai_edge_litert", "flatbuffers"}
    monkeypatch.setattr(formats, "find_spec", lambda name: object() if name in there else None)
    check_formats((Format.ONNX, Format.TFLITE))
    monkeypatch.setattr(formats.platform, "machine", lambda: "x86_64")
    with pytest.raises(InputError, match=r"CoreML needs coremltools, not installed .* `edgemodel\[coreml\]`") as caught:
        check_formats((Format.COREML,))
    assert caught.value.reason == NOT_SUPPORTED
    monkeypatch.setattr(formats.platform, "system", lambda: "Linux")
    monkeypatch.setattr(formats.platform, "machine", lambda: "aarch64")
    with pytest.raises(InputError, match="no package for Linux on aarch64: run the Job on amd64"):
        check_formats((Format.COREML,))
    there.remove("flatbuffers")
    with pytest.raises(InputError, match=r"TFLite needs flatbuffers, .*`edgemodel\[tflite\]`.*take TFLite out of spec"):
        check_formats((Format.ONNX, Format.TFLITE))


def test_beyond_protobuf_s_limit(build: Any):
    path = build.folder / "model.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)  # takes no room
    with pytest.raises(InputError, match=r"2147483648 bytes\), but at most 2\.0 GiB \(2147483647 bytes\)"):
        load_model(path, work_dir=build.folder, max_bytes=2**40)


def _empty(build: Any) -> Any:
    return TensorProto(name="e", data_type=TensorProto.FLOAT, dims=[2**62, 2**62, 0], raw_data=b"")


#: Small files that ask for much work, or would fill a terminal.
TRAPS = {
    "batch of millions": (lambda b: b.model(inputs=[b.value("x", [2**27, 1])]), "134217728 samples at a time"),
    "too many dimensions": (lambda b: b.model(inputs=[b.value("x", ["N"] * 40)]), "40 dimensions"),
    "empty and gigantic": (lambda b: b.model(initializers=[b.weights(), _empty(b)]), "is empty and yet has shape"),
    "names of megabytes": (lambda b: b.model([helper.make_node("Relu", ["z" * 2**20], ["y"])]), "…"),
    "names that steer terminals": (lambda b: b.model([helper.make_node("Re\x1b[2Jlu", ["x"], ["y"])]), "Re?[2Jlu"),
    "many near names": (
        lambda b: b.model(
            [*(helper.make_node("Relu", ["x"], [f"{'n' * 30}{i}"]) for i in range(5_000)),
             helper.make_node("Relu", ["n" * 31], ["y"])]
        ),
        "did you mean",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAPS)
@pytest.mark.timeout(30)
def test_traps(build: Any, name: str):
    make, words = TRAPS[name]
    path = build.save(make(build))
    with pytest.raises(InputError) as caught:
        load_model(path, work_dir=build.folder, max_bytes=2**24)
    assert words in caught.value.message
    assert len(caught.value.message) < 1000
    assert caught.value.message.isprintable()


def test_training_models_are_refused(build: Any):
    model = build.model()
    model.training_info.add()
    with pytest.raises(InputError, match="export it for inference"):
        load(build, model)

"""The package as one file, and weight.bin: bytes, damage and attacks."""

from __future__ import annotations

import contextlib
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgemodel_api.errors import EdgeModelError, InputError
from edgemodel_compressor.formats import coreml
from edgemodel_compressor.formats.coreml.blob import WeightFile
from edgemodel_compressor.formats.coreml.package import FOLDER, read_package
from edgemodel_compressor.formats.coreml.program import decode


def weight_file(*, kind: int = 2, size: int = 8, start: int = 128, mark: int = 0xDEADBEEF) -> WeightFile:
    """One tensor of two floats, by the bytes of the format."""
    header = struct.pack("<II", 1, 2).ljust(64, b"\0")
    entry = struct.pack("<IIQQ", mark, kind, size, start).ljust(64, b"\0")
    return WeightFile(header + entry + struct.pack("<ff", 1.5, -2.0))


class TestWeightFile:
    def test_bytes_as_the_format_has_them(self) -> None:
        assert weight_file().read(64).tolist() == [1.5, -2.0]

    def test_halves_and_bytes(self) -> None:
        assert weight_file(kind=4, size=2).read(64).dtype == np.int8
        assert weight_file(kind=1).read(64).shape == (4,)

    @pytest.mark.parametrize(
        ("changed", "offset", "message"),
        [
            ({"mark": 1}, 64, "no tensor at byte 64"),
            ({"kind": 99}, 64, "type 99"),
            ({"size": 1000}, 64, "1000 bytes at byte 128"),
            ({"size": 6}, 64, "6 bytes"),
            ({}, 10_000, "a tensor at byte 10000"),
            ({}, -1, "a tensor at byte -1"),
        ],
    )
    def test_damage_is_named(self, changed: dict[str, int], offset: int, message: str) -> None:
        with pytest.raises(InputError, match=message):
            weight_file(**changed).read(offset)


@pytest.fixture(scope="module")
def package(tmp_path_factory: Any) -> Path:
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.arange(600, dtype=np.float32).reshape(20, 30) / 600, "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="dense")],
        "dense",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 20])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 30])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path: Path = tmp_path_factory.mktemp("package") / "model.mlpackage.zip"
    coreml.convert(model, path, encoding="float32")
    return path


class TestZip:
    def test_has_what_xcode_wants(self, package: Path) -> None:
        with zipfile.ZipFile(package) as archive:
            names = archive.namelist()
            assert all(e.compress_type == zipfile.ZIP_STORED and e.date_time[0] == 1980 for e in archive.infolist())
        inside = ["Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin", "Manifest.json"]
        assert names == [f"{FOLDER}/{name}" for name in inside]

    def test_coremltools_reads_the_unpacked_folder(self, package: Path, tmp_path: Path) -> None:
        folder = coreml.unpack(package, tmp_path)
        from coremltools.libmodelpackage import ModelPackage
        from coremltools.models.utils import load_spec

        assert load_spec(str(folder)).description.input[0].name == "x"
        assert Path(ModelPackage(str(folder)).getRootModel().path()).name == "model.mlmodel"
        x = np.ones((3, 20), np.float32)
        assert np.array_equal(coreml.run(folder, {"x": x})["y"], coreml.run(package, {"x": x})["y"])
        with pytest.raises(InputError, match="is there already"):
            coreml.unpack(package, tmp_path)

    def test_weights_are_read_from_the_file(self, package: Path) -> None:
        program = decode(read_package(package))
        (weight,) = [v for v in program.constants().values() if v.size == 600]
        assert np.array_equal(weight.T.reshape(-1), np.arange(600, dtype=np.float32) / 600)

    def test_nothing_says_when_it_was_made(self, package: Path) -> None:
        assert not [k for k in decode(read_package(package)).metadata if "date" in k]


def changed(package: Path, dest: Path, changes: dict[str, bytes | None]) -> Path:
    with zipfile.ZipFile(package) as old, zipfile.ZipFile(dest, "w") as new:
        for entry in old.infolist():
            name = entry.filename.removeprefix(f"{FOLDER}/")
            content = changes.get(name, old.read(entry)) if name in changes else old.read(entry)
            if content is not None:
                new.writestr(entry.filename, content)
        for name in changes.keys() - {e.filename.removeprefix(f"{FOLDER}/") for e in old.infolist()}:
            new.writestr(name, changes[name] or b"")
    return dest


SPEC = "Data/com.apple.CoreML/model.mlmodel"


class TestHostile:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"Manifest.json": None}, "no Manifest.json"),
            ({"Manifest.json": b"{}"}, "names no model"),
            ({"Manifest.json": b"[" * 100_000}, "names no model"),
            ({SPEC: None}, "is missing"),
            ({SPEC: b"\xff\xff"}, "no Core ML model"),
            ({SPEC: b""}, "only mlProgram"),
            ({"Data/com.apple.CoreML/weights/weight.bin": b"x" * 20}, "weight.bin"),
            ({f"{FOLDER}/../evil": b"x"}, "cannot be part"),
            ({"other.mlpackage/x": b"x"}, "exactly one"),
        ],
    )
    def test_damage_is_named(self, package: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
        bad = changed(package, tmp_path / "bad.zip", changes)
        with pytest.raises(InputError, match=message):
            coreml.open_run(bad)

    def test_no_zip(self, tmp_path: Path) -> None:
        path = tmp_path / "model.zip"
        with pytest.raises(InputError, match="cannot be read"):
            coreml.open_run(path)
        path.write_bytes(b"PK no zip")
        with pytest.raises(InputError, match="no zip"):
            coreml.open_run(path)

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_flipped_bytes_never_raise_anything_else(self, package: Path, tmp_path: Path, data: Any) -> None:
        content = bytearray(read_package(package).spec.SerializeToString(deterministic=True))
        for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
            content[place] = data.draw(st.integers(0, 255))
        bad = changed(package, tmp_path / "bad.zip", {SPEC: bytes(content)})
        with contextlib.suppress(EdgeModelError):
            coreml.run(bad, {"x": np.ones((1, 20), np.float32)})


class TestFeeds:
    def test_what_does_not_fit_is_named(self, package: Path) -> None:
        run = coreml.open_run(package)
        with pytest.raises(InputError, match="input 'x' is missing"):
            run({})
        with pytest.raises(InputError, match=r"shape \[2, 7\], but the model takes \[1, 20\]"):
            run({"x": np.ones((2, 7), np.float32)})
        with pytest.raises(InputError, match="beyond 32 bits"):
            run({"x": np.full((1, 20), 2**40)})

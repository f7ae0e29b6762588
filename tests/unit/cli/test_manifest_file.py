import hashlib
import os

import pytest
from onnx import TensorProto, helper

from edgemodel_api.errors import InputError
from edgemodel_api.revision import revision_of
from edgemodel_cli.manifest_file import local_path, read_manifest
from edgemodel_compressor import sources

MANIFEST = """
apiVersion: edgemodel.dev/v1alpha1
kind: EdgeModel
metadata: {name: m}
spec:
  source: {uri: "%s"%s}
  data:
    validation: {uri: "file:data/v.npz"}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "m.onnx").write_bytes(b"model")
    (tmp_path / "data" / "v.npz").write_bytes(b"data")
    return tmp_path


def write(folder, uri="file:m.onnx", more=""):
    path = folder / "edgemodel.yaml"
    path.write_text(MANIFEST % (uri, more))
    return path


def test_local_files_get_their_digest(folder):
    found = read_manifest(write(folder))
    digest = hashlib.sha256(b"model").hexdigest()
    assert found.model.spec.source.sha256 == digest
    assert found.model.spec.data.validation.sha256 == hashlib.sha256(b"data").hexdigest()
    assert found.base_dir == folder
    assert [(f.field, f.size) for f in found.files] == [("spec.source", 5), ("spec.data.validation", 4)]


@pytest.mark.parametrize("name", ["m.onnx", "data/v.npz"])
def test_a_changed_file_is_another_revision(folder, name):
    before = revision_of(read_manifest(write(folder)).model.spec, ["linux/amd64"])
    (folder / name).write_bytes(b"other")
    assert revision_of(read_manifest(write(folder)).model.spec, ["linux/amd64"]) != before


def test_the_folder_does_not_count(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    os.rename(folder / "data", other / "data")
    os.rename(folder / "m.onnx", other / "m.onnx")
    (folder / "data").mkdir()
    (folder / "m.onnx").write_bytes(b"model")
    (folder / "data" / "v.npz").write_bytes(b"data")
    revisions = {revision_of(read_manifest(write(f)).model.spec, ["linux/amd64"]) for f in (folder, other)}
    assert len(revisions) == 1


URIS = {
    "relative": ("file:m.onnx", "{base}/m.onnx"),
    "below": ("file:a/m.onnx", "{base}/a/m.onnx"),
    "rooted": ("file:/a/m.onnx", "/a/m.onnx"),
    "absolute": ("file:///a/m.onnx", "/a/m.onnx"),
    "localhost": ("file://localhost/a/m.onnx", "/a/m.onnx"),
    "spaces": ("file:my%20model.onnx", "{base}/my model.onnx"),
}


@pytest.mark.parametrize(("uri", "path"), URIS.values(), ids=URIS)
def test_local_path(tmp_path, uri, path):
    assert str(local_path(uri, tmp_path)) == path.format(base=tmp_path)
    assert local_path(uri, tmp_path) == sources.local_path(uri, tmp_path), (
        "the Job must read the file that was digested"
    )


@pytest.mark.parametrize(
    "uri", ["https://example.com/m.onnx", "oci://example.com/m", "oci-layout:///r", "pvc://claim/m", "s3://bucket/m"]
)
def test_other_uris_are_no_local_files(tmp_path, uri):
    assert local_path(uri, tmp_path) is None


BAD = {
    "missing": ("file:none.onnx", "", "spec.source.uri: file:none.onnx: there is no file"),
    "folder": ("file:data", "", "is a folder: name the file in it"),
    "host": ("file://m.onnx", "", "names a host (m.onnx): write file:m.onnx for a path beside the manifest"),
    "device": ("file:///dev/null", "", "it is no regular file"),
    "below a file": ("file:m.onnx/x", "", "cannot be read"),
    "NUL": ("file:m%00.onnx", "", "cannot be read"),
}


@pytest.mark.parametrize(("uri", "more", "message"), BAD.values(), ids=BAD)
def test_bad_files(folder, uri, more, message):
    with pytest.raises(InputError) as caught:
        read_manifest(write(folder, uri, more))
    assert message in caught.value.message


def test_a_wrong_digest_names_both(folder):
    with pytest.raises(InputError) as caught:
        read_manifest(write(folder, more=f", sha256: {'a' * 64}"))
    assert hashlib.sha256(b"model").hexdigest() in caught.value.message
    assert "a" * 64 in caught.value.message


@pytest.mark.parametrize(
    ("name", "message"), [("none.yaml", "cannot be read: No such file"), ("data", "is a folder: name the file in it")]
)
def test_bad_manifest_paths(folder, name, message):
    with pytest.raises(InputError) as caught:
        read_manifest(folder / name)
    assert message in caught.value.message


def test_a_bad_condition_is_told_with_its_place(folder):
    path = write(folder)
    path.write_text(
        f"{path.read_text()}  rollout: {{analysis: [{{name: e, query: q, successCondition: value = 1}}]}}\n"
    )
    with pytest.raises(
        InputError, match=r"analysis\[0\]\.successCondition: 'value = 1': column 7: '=' is not understood"
    ):
        read_manifest(path)


LEARNS = """
apiVersion: edgemodel.dev/v1alpha1
kind: EdgeModel
metadata: {name: m}
spec:
  source: {uri: "file:m.onnx"}
  data:
    training: {uri: "file:data/v.npz", labels: digit}
  compression:
    steps:
      - distill: {student: {uri: "file:s.onnx"}}
      - quantize: {precision: Int8}
"""


def test_training_data_and_students_get_their_digest_too(folder):
    (folder / "s.onnx").write_bytes(b"student")
    path = folder / "edgemodel.yaml"
    path.write_text(LEARNS)
    found = read_manifest(path)
    fields = ["spec.source", "spec.data.training", "spec.compression.steps[0].distill.student"]
    assert [f.field for f in found.files] == fields
    spec = found.model.spec
    assert spec.data.training.sha256 == hashlib.sha256(b"data").hexdigest()
    assert spec.data.training.labels == "digit"
    assert spec.compression.steps[0].distill.student.sha256 == hashlib.sha256(b"student").hexdigest()
    before = revision_of(spec, ["linux/amd64"])
    (folder / "moved").mkdir()
    (folder / "s.onnx").rename(folder / "moved" / "s.onnx")
    path.write_text(LEARNS.replace("file:s.onnx", "file:moved/s.onnx"))
    assert revision_of(read_manifest(path).model.spec, ["linux/amd64"]) == before
    (folder / "moved" / "s.onnx").write_bytes(b"another")
    assert revision_of(read_manifest(path).model.spec, ["linux/amd64"]) != before


def external_model(folder, content: bytes) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[len(content) // 4], data_location=1)
    tensor.external_data.add(key="location", value="w.bin")
    graph = helper.make_graph([], "g", [], [], [tensor])
    (folder / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    (folder / "w.bin").write_bytes(content)


def test_changed_external_data_are_another_revision(folder):
    seen = []
    for content in (b"weights!", b"weights?"):
        external_model(folder, content)
        source = read_manifest(write(folder)).model.spec.source
        assert source.sha256 == hashlib.sha256((folder / "m.onnx").read_bytes()).hexdigest()
        assert source.data_sha256 == hashlib.sha256(content).hexdigest()
        seen.append(revision_of(read_manifest(write(folder)).model.spec, ["linux/amd64"]))
    assert len(set(seen)) == 2


def test_external_data_are_those_that_are_meant(folder):
    external_model(folder, b"weights!")
    digest = hashlib.sha256(b"weights!").hexdigest()
    read_manifest(write(folder, more=f", dataSha256: {digest}"))
    with pytest.raises(InputError, match=r"spec\.source\.dataSha256: .* have sha256"):
        read_manifest(write(folder, more=f", dataSha256: {'a' * 64}"))
    (folder / "w.bin").unlink()
    with pytest.raises(InputError, match=r"spec\.source\.uri: .*w\.bin' is missing"):
        read_manifest(write(folder))


@pytest.mark.parametrize("scheme", ["https://h/m.onnx", "s3://bucket/m.onnx"])
def test_one_file_by_url_has_no_external_data(folder, scheme):
    with pytest.raises(InputError, match="dataSha256 is for file, pvc and oci"):
        read_manifest(write(folder, scheme, f", sha256: {'a' * 64}, dataSha256: {'a' * 64}"))

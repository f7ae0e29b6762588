"""oras, the field's tool for artifacts, reads what we write, and we read what it writes."""

import json

import pytest

from edgemodel_api.artifact import REPORT_ARTIFACT_TYPE
from edgemodel_oci.artifact import attach_report, fetch_model_file, read_index, read_report, read_variant
from edgemodel_oci.pack import unpack_file

pytestmark = pytest.mark.tools


@pytest.fixture(params=["layout", "registry"])
def place(request, tmp_path):
    """(our reference, oras' name without tag, oras' options) of a layout and of a registry."""
    if request.param == "layout":
        return f"oci-layout://{tmp_path}/layout", f"{tmp_path}/layout", ["--oci-layout"]
    host = request.getfixturevalue("registry")
    name = f"{host}/oras/{request.node.name.partition('[')[0].replace('_', '-')}"
    return f"oci://{name}", name, ["--plain-http"]


def test_oras_pulls_a_variant(place, oras, open_at, write, files, tmp_path):
    ours, name, options = place
    repo = open_at(ours, create=True)
    _, variants = write(repo)
    variant = read_variant(repo, variants[1].digest)
    for n, arguments in enumerate(([f"{name}@{variants[1].digest}"], ["--platform", "linux/arm64", f"{name}:r1"])):
        out = tmp_path / f"out-{n}"
        oras("pull", *options, *arguments, "-o", out)
        assert sorted(p.name for p in out.iterdir()) == ["golden.npz", "model.onnx.tar.zst"]
        assert (out / "golden.npz").read_bytes() == files[1].read_bytes()
        unpack_file(
            out / "model.onnx.tar.zst",
            out / "model.onnx",
            file_digest=variant.file_digest,
            file_size=variant.file_size,
        )
        assert (out / "model.onnx").read_bytes() == files[0].read_bytes()


def test_oras_shows_manifests_and_reports(place, oras, open_at, write, tmp_path):
    ours, name, options = place
    repo = open_at(ours, create=True)
    index, variants = write(repo)
    report = attach_report(repo, index, b'{"n": 1}')
    shown = json.loads(oras("manifest", "fetch", *options, f"{name}:r1"))
    assert [m["digest"] for m in shown["manifests"]] == [v.digest for v in variants]
    assert [m["platform"]["architecture"] for m in shown["manifests"]] == ["amd64", "arm64"]
    manifest = json.loads(oras("manifest", "fetch", *options, f"{name}@{variants[0].digest}"))
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    found = json.loads(oras("discover", *options, "--format", "json", f"{name}:r1"))
    assert [(r["digest"], r["artifactType"]) for r in found["referrers"]] == [(report.digest, REPORT_ARTIFACT_TYPE)]
    oras("pull", *options, f"{name}@{report.digest}", "-o", tmp_path / "report")
    assert (tmp_path / "report" / "report.json").read_bytes() == b'{"n": 1}'


def test_a_copy_by_oras_is_the_same_artifact(registry, oras, open_at, write, tmp_path):
    layout = open_at(f"oci-layout://{tmp_path}/layout", create=True)
    index, variants = write(layout)
    attach_report(layout, index, b'{"n": 1}')
    name = f"{registry}/oras/copy"
    oras("cp", "-r", "--from-oci-layout", f"{tmp_path}/layout:r1", "--to-plain-http", f"{name}:r1")
    copied = open_at(f"oci://{name}")
    assert read_index(copied, "r1") == read_index(layout, "r1")
    assert read_variant(copied, variants[0].digest) == read_variant(layout, variants[0].digest)
    assert read_report(copied, index.digest) == b'{"n": 1}'
    oras("cp", "-r", "--from-plain-http", f"{name}:r1", "--to-oci-layout", f"{tmp_path}/back:r1")
    back = open_at(f"oci-layout://{tmp_path}/back")
    assert read_index(back, "r1") == read_index(layout, "r1")
    assert read_report(back, index.digest) == b'{"n": 1}'
    write(back)  # a layout of oras' making takes our writes
    assert read_report(back, index.digest) == b'{"n": 1}'


@pytest.mark.parametrize(
    "media_type",
    [
        pytest.param("", id="oras default"),
        pytest.param(":application/octet-stream", id="octets"),
        pytest.param(":application/vnd.cncf.model.weight.v1.raw", id="ModelPack raw"),
    ],
)
def test_a_file_that_oras_pushed_is_a_source(place, oras, open_at, files, tmp_path, media_type):
    ours, name, options = place
    oras("push", *options, f"{name}:raw", f"model.onnx{media_type}", cwd=tmp_path)
    fetch_model_file(open_at(ours), "raw", tmp_path / "source.onnx", max_bytes=10**7)
    assert (tmp_path / "source.onnx").read_bytes() == files[0].read_bytes()


def test_a_folder_that_oras_pushed_is_a_source(place, oras, open_at, files, tmp_path):
    ours, name, options = place
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / "README.md").write_text("how it was trained")
    (folder / "model.onnx").write_bytes(files[0].read_bytes())
    oras("push", *options, f"{name}:folder", "exported", cwd=tmp_path)
    fetch_model_file(open_at(ours), "folder", tmp_path / "source.onnx", max_bytes=10**7)
    assert (tmp_path / "source.onnx").read_bytes() == files[0].read_bytes()

"""What an `oci` source means: the one model file of any artifact."""

import gzip
import os
import tarfile

import pytest
import zstandard

from edgemodel_api.artifact import INDEX, MANIFEST
from edgemodel_api.errors import InputError
from edgemodel_oci.artifact import ArtifactWriter, fetch_model_file
from edgemodel_oci.manifests import canonical

WEIGHT = "application/vnd.cncf.model.weight.v1."
IMAGE = "application/vnd.oci.image.layer.v1.tar"
TITLE = "org.opencontainers.image.title"


@pytest.fixture
def push(layout):
    """An artifact tagged `t`, of layers (media type, content, annotations)."""

    def run(*layers, tag="t"):
        entries = []
        for media_type, data, *annotations in layers:
            entry = layout.put_blob(data, media_type=media_type).to_json()
            entries.append({**entry, "annotations": annotations[0]} if annotations else entry)
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "layers": entries}
        return layout.put_manifest(canonical(document), MANIFEST, tag)

    return run


@pytest.fixture
def fetch(layout, tmp_path):
    """Fetch the source; its bytes. Nothing else may be left in the folder."""
    folder = tmp_path / "fetched"
    folder.mkdir()

    def run(tag="t", max_bytes=10**6):
        try:
            fetch_model_file(layout, tag, folder / "model.onnx", max_bytes=max_bytes)
        except BaseException:
            assert os.listdir(folder) == []
            raise
        assert os.listdir(folder) == ["model.onnx"]
        return (folder / "model.onnx").read_bytes()

    return run


GOOD = {
    "ModelPack raw": lambda t, c: [(WEIGHT + "raw", c)],
    "ModelPack tar": lambda t, c: [(WEIGHT + "tar", t(("model.onnx", c)))],
    "ModelPack tar+gzip": lambda t, c: [(WEIGHT + "tar+gzip", gzip.compress(t(("m.onnx", c))))],
    "ModelPack tar+zstd": lambda t, c: [(WEIGHT + "tar+zstd", zstandard.compress(t(("x", c))), {TITLE: "x.tar.zst"})],
    "ModelPack before CNCF": lambda t, c: [("application/vnd.cnai.model.weight.v1.tar", t(("model.onnx", c)))],
    "with documents": lambda t, c: [
        ("application/vnd.cncf.model.doc.v1.raw", b"readme", {TITLE: "README.md"}),
        (WEIGHT + "raw", c, {TITLE: "model.onnx"}),
        ("application/vnd.cncf.model.dataset.v1.raw", b"data"),
    ],
    "oras": lambda t, c: [(IMAGE, c, {TITLE: "model.onnx"})],
    "oras with a readme": lambda t, c: [(IMAGE, b"readme", {TITLE: "README"}), (IMAGE, c, {TITLE: "model.onnx"})],
    "oras folder": lambda t, c: [
        (IMAGE + "+gzip", gzip.compress(t(("d/a", b"1"), ("d/m.onnx", c), ("d/z", b"2"))),
         {TITLE: "d", "io.deis.oras.content.unpack": "true"})
    ],
    "one-layer image": lambda t, c: [(IMAGE + "+gzip", gzip.compress(t(("model.onnx", c))))],
    "Docker image": lambda t, c: [("application/vnd.docker.image.rootfs.diff.tar.gzip", gzip.compress(t(("m", c))))],
    "one layer of anything": lambda t, c: [("application/octet-stream", c)],
    "long names and pax headers": lambda t, c: [(IMAGE, t(("d" * 150 + "/ü.onnx", c)))],
    "GNU long names": lambda t, c: [(IMAGE, t(("d" * 150 + "/m.onnx", c), kind=tarfile.GNU_FORMAT))],
    "other files before a smaller model": lambda t, c: [(IMAGE, t(("weights.txt", c + c), ("m.onnx", c)))],
}  # fmt: skip


@pytest.mark.parametrize("layers", GOOD.values(), ids=GOOD)
def test_understood(push, fetch, tar, content, layers):
    push(*layers(tar, content))
    assert fetch() == content


def link(kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo("model.onnx")
    info.type, info.linkname = kind, "/etc/passwd"
    return info


BAD = {
    "no layers": (lambda t, c: [], "0 layers"),
    "two models": (lambda t, c: [(IMAGE, c, {TITLE: "a.onnx"}), (IMAGE, c, {TITLE: "b.onnx"})], "a.onnx, b.onnx"),
    "two weights": (lambda t, c: [(WEIGHT + "raw", c), (WEIGHT + "tar", c)], "2 layers"),
    "two models in a tar": (lambda t, c: [(IMAGE, t(("a.onnx", c), ("b.onnx", c)))], "'a.onnx' and 'b.onnx'"),
    "two files, no model": (lambda t, c: [(IMAGE, t(("a", c), ("b", c)))], "2 files and none"),
    "empty tar": (lambda t, c: [(IMAGE, t())], "0 files"),
    "no tar": (lambda t, c: [(IMAGE, c)], "no tar archive"),
    "no gzip": (lambda t, c: [(WEIGHT + "tar+gzip", c)], "cannot be decompressed"),
    "cut gzip": (lambda t, c: [(WEIGHT + "tar+gzip", gzip.compress(t(("m", c)))[:-20])], "cannot be decompressed|cut"),
    "damaged gzip": (lambda t, c: [(WEIGHT + "tar+gzip", gzip.compress(t(("m", c)))[:-8] + bytes(8))], "decompressed"),
    "cut zstd": (
        lambda t, c: [(WEIGHT + "tar+zstd", zstandard.compress(t(("m", os.urandom(9999))))[:-500])],
        "cut|lacks",
    ),
    "path traversal": (lambda t, c: [(IMAGE, t(("../m.onnx", c)))], "leaves its folder"),
    "symbolic link": (lambda t, c: [(IMAGE, t(link(tarfile.SYMTYPE)))], "no regular file"),
    "link after the model": (lambda t, c: [(IMAGE, t(("m.onnx", c), link(tarfile.LNKTYPE)))], "no regular file"),
    "bomb": (lambda t, c: [(WEIGHT + "tar+gzip", gzip.compress(t(("m", bytes(10**7)))))], "more than the limit"),
    "many files": (lambda t, c: [(IMAGE, t(*((f"{n}", b"x" * 400_000) for n in range(3))))], "more than the limit"),
    "large layer": (lambda t, c: [("application/x", bytes(10**6 + 1))], "1000001 bytes, more than the limit"),
}


@pytest.mark.parametrize(("layers", "message"), BAD.values(), ids=BAD)
def test_refused(push, fetch, tar, content, layers, message):
    push(*layers(tar, content))
    with pytest.raises(InputError, match=message):
        fetch()


def test_our_own_artifacts(layout, add, fetch, content, tmp_path):
    (tmp_path / "other").write_bytes(b"smaller")
    writer = ArtifactWriter(layout)
    add(writer)
    small = add(writer, name="int8", model_file=tmp_path / "other")
    writer.finish(revision="r", tag="t")
    assert fetch() == content
    os.unlink(tmp_path / "fetched" / "model.onnx")
    assert fetch(small.digest) == b"smaller"


def test_an_index_of_several_models_names_them(layout, push, fetch):
    entries = [push((WEIGHT + "raw", data), tag=None).to_json() for data in (b"a", b"b")]
    layout.put_manifest(canonical({"mediaType": INDEX, "manifests": entries}), INDEX, "t")
    with pytest.raises(InputError, match=f"index of 2 manifests.*{entries[0]['digest']}"):
        fetch()


def test_an_index_of_itself_ends(layout, fetch, push):
    inner = layout.put_manifest(canonical({"mediaType": INDEX, "manifests": []}), INDEX)
    middle = layout.put_manifest(canonical({"mediaType": INDEX, "manifests": [inner.to_json()]}), INDEX)
    layout.put_manifest(canonical({"mediaType": INDEX, "manifests": [middle.to_json()]}), INDEX, "t")
    with pytest.raises(InputError, match="index of"):
        fetch()

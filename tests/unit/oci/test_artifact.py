"""The artifact: deterministic, and read as if a stranger had written it."""

import json
from datetime import UTC, datetime

import pytest

from edgemodel_api.artifact import ANNOTATION_GOLDEN, GOLDEN_LAYER, INDEX, MANIFEST, WEIGHT_LAYER, Golden
from edgemodel_api.edgemodel import Format
from edgemodel_api.errors import InputError
from edgemodel_oci.artifact import (
    ArtifactWriter,
    attach_report,
    packed_size,
    read_index,
    read_report,
    read_variant,
)
from edgemodel_oci.layout import Layout
from edgemodel_oci.manifests import canonical
from edgemodel_oci.reference import Reference


def test_two_runs_give_the_same_bytes(tmp_path, add, snapshot):
    found = []
    for n in range(2):
        layout = Layout(Reference.parse(f"oci-layout://{tmp_path}/run-{n}"), create=True)
        writer = ArtifactWriter(layout)
        add(writer)
        add(writer, name="int8", classes=["amd64-vnni"], encoding="int8-static-s8s8")
        writer.finish(revision="r1", tag="r1")
        found.append(snapshot(layout.folder))
    assert found[0] == found[1]


def test_what_was_written_is_read(layout, add, sha256, content, files):
    writer = ArtifactWriter(layout)
    descriptor = add(writer, name="int8", classes=["amd64-vnni", "amd64-avx2"], encoding="int8-dynamic-u8")
    index = writer.finish(revision="r1", tag="t1")
    variant = read_variant(layout, descriptor.digest)
    assert (variant.name, variant.platform, variant.revision) == ("int8", "linux/amd64", "")
    assert (variant.classes, variant.encoding) == (("amd64-vnni", "amd64-avx2"), "int8-dynamic-u8")
    assert (variant.file_digest, variant.file_size) == (sha256(content), len(content))
    assert variant.golden_spec == Golden(cases=4, max_error=1e-3, min_agreement=0.75)
    assert (variant.weight.media_type, variant.golden.media_type) == (WEIGHT_LAYER, GOLDEN_LAYER)
    assert (variant.golden.digest, variant.golden.size) == (sha256(files[1].read_bytes()), len(files[1].read_bytes()))
    assert json.loads(variant.golden.annotations[ANNOTATION_GOLDEN])["maxError"] == 1e-3
    assert packed_size(files[0]) == variant.weight.size == ArtifactWriter(layout).stored_size(files[0])
    read = read_index(layout, "t1")
    assert (read.descriptor, read.revision, read.variants) == (index, "r1", (descriptor,))
    assert descriptor.annotations["dev.edgemodel.variant"] == "int8"
    assert descriptor.platform == "linux/amd64"


@pytest.mark.parametrize(("kind", "name"), [("TFLite", "model.tflite"), ("CoreML", "model.mlpackage.zip")])
def test_another_format_is_said_in_the_manifest_and_in_the_index(layout, add, kind, name):
    writer = ArtifactWriter(layout)
    onnx = add(writer)
    other = add(writer, name="tflite-int8", model_format=Format(kind))
    writer.finish(revision="r1", tag="t1")
    variant = read_variant(layout, other.digest)
    assert (variant.format, variant.file_name) == (Format(kind), name)
    assert variant.weight.annotations["org.cncf.model.filepath"] == name
    first, second = read_index(layout, "t1").variants
    assert second.annotations["dev.edgemodel.format"] == kind
    # Nothing about ONNX variants has changed: their digests are those of artifacts that were built before.
    assert "dev.edgemodel.format" not in first.annotations
    assert (read_variant(layout, onnx.digest).format, read_variant(layout, onnx.digest).file_name) == (
        Format.ONNX,
        "model.onnx",
    )
    # The same bytes under another name are another layer.
    assert variant.weight.digest != read_variant(layout, onnx.digest).weight.digest


def test_a_format_of_the_future_is_refused_in_words(layout, add):
    document = json.loads(layout.manifest(add(ArtifactWriter(layout)).digest)[1])
    document["annotations"]["dev.edgemodel.format"] = "GGUF\x1b[31m" + "x" * 500
    digest = layout.put_manifest(canonical(document), MANIFEST).digest
    with pytest.raises(
        InputError, match=r"format 'GGUF.*this version knows ONNX, TFLite, CoreML: update EdgeModel"
    ) as e:
        read_variant(layout, digest)
    assert len(e.value.message) < 400


def test_the_revision_does_not_change_a_variant(layout, add):
    digests = set()
    for revision in ("r1", "r2"):
        writer = ArtifactWriter(layout)
        digests.add(add(writer).digest)
        writer.finish(revision=revision, tag=revision)
    assert len(digests) == 1
    assert read_index(layout, "r1").descriptor.digest != read_index(layout, "r2").descriptor.digest


def test_equal_files_are_packed_and_stored_once(layout, add, files, tmp_path, monkeypatch):
    import edgemodel_oci.artifact as module

    packed, stored = [], []
    pack_file, put_blob = module.pack_file, Layout.put_blob
    monkeypatch.setattr(module, "pack_file", lambda *a, **k: packed.append(a) or pack_file(*a, **k))

    def counting(self, blob, *, media_type="application/octet-stream"):
        stored.append(media_type)
        return put_blob(self, blob, media_type=media_type)

    monkeypatch.setattr(Layout, "put_blob", counting)
    (tmp_path / "copy.onnx").write_bytes(files[0].read_bytes())
    writer = ArtifactWriter(layout)
    size = writer.stored_size(files[0])
    one = add(writer)
    two = add(writer, platform="linux/arm64", model_file=tmp_path / "copy.onnx")
    assert len(packed) == 1
    assert stored.count(WEIGHT_LAYER) == 1
    assert read_variant(layout, one.digest).weight == read_variant(layout, two.digest).weight
    assert read_variant(layout, one.digest).weight.size == size


@pytest.mark.parametrize("finish", [True, False])
def test_packed_files_do_not_stay_behind(layout, add, files, tmp_path, finish):
    work = tmp_path / "work"
    work.mkdir()
    writer = ArtifactWriter(layout, work_dir=work)
    add(writer)
    (tmp_path / "other").write_bytes(b"never stored")
    writer.stored_size(tmp_path / "other")
    assert list(work.iterdir())
    if finish:
        writer.finish(revision="r", tag="r")
    else:
        del writer
    assert list(work.iterdir()) == []


def test_variants_that_are_refused(layout, add, tmp_path):
    writer = ArtifactWriter(layout)
    add(writer)
    for fields, message in (
        ({}, "already"),
        ({"platform": "linux"}, "no platform"),
        ({"platform": "Linux/AMD64"}, "no platform"),
        ({"name": ""}, "no name"),
        ({"name": "x", "model_file": tmp_path / "none"}, "cannot read"),
        ({"name": "x", "golden_file": tmp_path / "none"}, "cannot read"),
    ):
        with pytest.raises(InputError, match=message):
            add(writer, **fields)
    with pytest.raises(InputError, match="no variant"):
        ArtifactWriter(layout).finish(revision="r", tag="r")


def test_reports(layout, add):
    writer = ArtifactWriter(layout)
    add(writer)
    index = writer.finish(revision="r", tag="r")
    assert read_report(layout, index.digest) is None
    attach_report(layout, index, b"new", created=datetime(2026, 11, 2, tzinfo=UTC))
    attach_report(layout, index, b"old", created=datetime(2026, 11, 1, tzinfo=UTC))
    assert read_report(layout, index.digest) == b"new"
    attach_report(layout, index, b"newest")
    assert read_report(layout, index.digest) == b"newest"
    with pytest.raises(InputError, match="single manifest"):
        read_index(layout, read_index(layout, "r").variants[0].digest)
    with pytest.raises(InputError, match="is an index"):
        read_variant(layout, index.digest)


def drop(path):
    def change(document):
        *parents, last = path
        for key in parents:
            document = document[key]
        del document[last]

    return change


def put(path, value):
    def change(document):
        *parents, last = path
        for key in parents:
            document = document[key]
        document[last] = value

    return change


W, G = ("layers", 0), ("layers", 1)
SIZE, FILE = "dev.edgemodel.file.size", "dev.edgemodel.file.digest"
BROKEN = {
    "no layers": (drop(("layers",)), "0 layers of type"),
    "layers are no list": (put(("layers",), {"a": 1}), "no list"),
    "too many layers": (put(("layers",), [{}] * 10_001), "no list of at most"),
    "no weight": (put(("layers", 0, "mediaType"), "application/x"), "0 layers of type"),
    "two weights": (put(("layers", 1, "mediaType"), WEIGHT_LAYER), "2 layers of type"),
    "no annotations": (drop((*W, "annotations")), "file digest"),
    "digest of another kind": (put((*W, "digest"), "md5:1"), "only sha256"),
    "digest with a path": (put((*W, "annotations", FILE), "sha256:../../etc/passwd"), "file digest"),
    "size is text": (put((*W, "size"), "1"), "the size '1'"),
    "size is a bool": (put((*W, "size"), True), "the size 'True'"),
    "size is negative": (put((*W, "size"), -1), "the size '-1'"),
    "size is a float": (put((*W, "size"), 1.5), "the size '1.5'"),
    "size is huge": (put((*W, "size"), 10**30), "the size '1000"),
    "file size is negative": (put((*W, "annotations", SIZE), "-1"), "declares a model file of '-1'"),
    "file size is long": (put((*W, "annotations", SIZE), "9" * 5000), "declares a model file of '999"),
    "file size is a superscript": (put((*W, "annotations", SIZE), "²"), "declares a model file"),
    "file size is a number": (put((*W, "annotations", SIZE), 5), "declares a model file of ''"),
    "no golden spec": (drop((*G, "annotations")), "golden cases"),
    "golden spec is broken": (put((*G, "annotations", ANNOTATION_GOLDEN), "{"), "golden cases"),
    "no variant": (drop(("annotations", "dev.edgemodel.variant")), "lacks its variant"),
    "no platform": (put(("annotations", "dev.edgemodel.platform"), "../.."), "platform"),
    "layer is text": (put(W, "x"), "no JSON object"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN.values(), ids=BROKEN)
def test_manifests_of_strangers(layout, add, change, message):
    _, content = layout.manifest(add(ArtifactWriter(layout)).digest)
    document = json.loads(content)
    change(document)
    broken = layout.put_manifest(canonical(document), MANIFEST)
    with pytest.raises(InputError, match=message):
        read_variant(layout, broken.digest)


def test_unknown_members_are_ignored(layout, add):
    """As the image spec asks: a later version may add some."""
    descriptor = add(ArtifactWriter(layout))
    _, content = layout.manifest(descriptor.digest)
    later = canonical({**json.loads(content), "later": {"x": 1}})
    assert read_variant(layout, layout.put_manifest(later, MANIFEST).digest).name == "source"


def test_an_index_of_nothing(layout):
    layout.put_manifest(canonical({"schemaVersion": 2, "mediaType": INDEX}), INDEX, "t")
    assert read_index(layout, "t").variants == ()

"""Artifacts of large models: two files in one layer, both checked; one-file layers have the bytes they always had."""

import contextlib
import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from edgemodel_api.artifact import ANNOTATION_DATA_DIGEST, ANNOTATION_DATA_SIZE, DATA_PROPERTY, WEIGHT_LAYER
from edgemodel_api.errors import InputError
from edgemodel_oci import pack
from edgemodel_oci.artifact import ArtifactWriter, packed_size, read_variant
from edgemodel_oci.companion import companion, data_name, file_bytes, property_of, remove_model
from edgemodel_oci.manifests import canonical
from edgemodel_oci.pack import ExternalData, pack_file, unpack_file
from edgemodel_oci.source import fetch_model_file

DATA = b"external weights" * 5000


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def field(number: int, content: bytes) -> bytes:
    length, size = len(content), b""
    while length >= 0x80:
        size += bytes([length & 0x7F | 0x80])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


def onnx_bytes(data: bytes = DATA, *, text: str | None = None) -> bytes:
    """A ModelProto that declares external data: version, graph, metadata."""
    text = property_of(digest(data), len(data)) if text is None else text
    entry = field(1, DATA_PROPERTY.encode()) + field(2, text.encode())
    return b"\x08\x0a" + field(7, b"graph" * 100) + field(14, field(1, b"k") + field(2, b"v")) + field(14, entry)


@pytest.fixture
def large(tmp_path) -> Path:
    """A model file with its data beside it."""
    path = tmp_path / "in" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(onnx_bytes())
    (path.parent / data_name(digest(DATA))).write_bytes(DATA)
    return path


def data_at(folder: Path, content: bytes = DATA) -> ExternalData:
    return ExternalData(folder / data_name(digest(content)), digest(content), len(content))


def test_what_a_model_declares(large):
    found = companion(large)
    assert (found.path.read_bytes(), found.digest, found.size) == (DATA, digest(DATA), len(DATA))
    assert file_bytes(large) == large.stat().st_size + len(DATA)


@pytest.mark.parametrize(
    "content",
    [b"", b"weights " * 100, onnx_bytes(text="sha256:12 5"), onnx_bytes(text=digest(DATA)), onnx_bytes()[:-9],
     onnx_bytes(text=f"{digest(DATA)} -1"), onnx_bytes(text=f"{digest(DATA)} 05"), onnx_bytes(text="../../etc/passwd 5")],
)  # fmt: skip
def test_files_that_declare_nothing(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert companion(path) is None
    assert file_bytes(path) == len(content)


@given(content=st.binary(max_size=80), at=st.integers(0, 700), flip=st.integers(0, 255))
def test_hostile_files_declare_nothing_or_what_is_missing(tmp_path_factory, content, at, flip):
    path = tmp_path_factory.mktemp("hostile") / "model.onnx"
    declared = bytearray(onnx_bytes())
    declared[at % len(declared)] = flip
    for bad in (content, bytes(declared)):
        path.write_bytes(bad)
        with contextlib.suppress(InputError):  # it declares data that are not there
            assert companion(path) is None


def test_missing_and_cut_data(large):
    data = companion(large).path
    os.truncate(data, 10)
    with pytest.raises(InputError, match="beside it has 10"):
        companion(large)
    data.unlink()
    with pytest.raises(InputError, match="needs its external data"):
        pack_file(large, large.with_name("layer"), name="model.onnx")
    assert not large.with_name("layer").exists()


def test_a_layer_of_two_files(tmp_path, large):
    layers = [pack_file(large, tmp_path / name, name="model.onnx") for name in ("a", "b")]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    packed = layers[0]
    assert packed.descriptor.size == (tmp_path / "a").stat().st_size == packed_size(large)
    assert packed.descriptor.annotations[ANNOTATION_DATA_DIGEST] == digest(DATA)
    assert packed.descriptor.annotations[ANNOTATION_DATA_SIZE] == str(len(DATA))
    plain = zstandard.ZstdDecompressor().stream_reader((tmp_path / "a").read_bytes(), read_across_frames=True).read()
    assert packed.diff_id == digest(plain)
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        members = tar.getmembers()
        assert [(m.name, m.mode, m.mtime, m.uid) for m in members] == [
            ("model.onnx", 0o644, 0, 0),
            (data_name(digest(DATA)), 0o644, 0, 0),
        ]
        assert tar.extractfile(members[1]).read() == DATA
    out = tmp_path / "out"
    out.mkdir()
    unpack_file(
        tmp_path / "a", out / "m", file_digest=packed.file_digest, file_size=packed.file_size, data=data_at(out)
    )
    assert (out / "m").read_bytes() == large.read_bytes()
    assert companion(out / "m").path.read_bytes() == DATA


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 2**20 - 512, 2**20, 3 * 2**20 + 7])
def test_one_file_layers_are_what_they_were(tmp_path, size):
    """The layer as it was defined before there were two files: header, file, padding and end in these writes."""
    content = bytes(i * i % 251 for i in range(size))
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    packed = pack_file(path, tmp_path / "layer", name="model.onnx")
    header = tarfile.TarInfo("model.onnx")
    header.size, header.mode = size, 0o644
    parameters = zstandard.ZstdCompressionParameters.from_level(
        16, source_size=size + 4 * 512, threads=pack._THREADS, write_checksum=True, write_content_size=False
    )
    out = io.BytesIO()
    with zstandard.ZstdCompressor(compression_params=parameters).stream_writer(out, closefd=False) as z:
        z.write(header.tobuf(tarfile.GNU_FORMAT))
        for start in range(0, size, 1 << 20):
            z.write(content[start : start + (1 << 20)])
        z.write(bytes(-size % 512 + 2 * 512))
    assert (tmp_path / "layer").read_bytes() == out.getvalue()
    assert set(packed.descriptor.annotations) == {
        "org.cncf.model.filepath", "dev.edgemodel.file.digest", "dev.edgemodel.file.size",
        "org.opencontainers.image.title",
    }  # fmt: skip


def test_data_that_are_not_what_their_name_says(large):
    data = companion(large).path
    data.write_bytes(DATA[:-1] + b"x")
    with pytest.raises(InputError, match="not the one in their name"):
        pack_file(large, large.with_name("layer"), name="model.onnx")
    assert not large.with_name("layer").exists()


def layer_of(path: Path, *files: tuple[str, bytes]) -> Path:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    path.write_bytes(zstandard.ZstdCompressor().compress(raw.getvalue()))
    return path


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("m", b"model")], "no file"),
        ([("m", b"model"), ("d", DATA[:-1])], f"a file of {len(DATA) - 1} bytes"),
        ([("m", b"model"), ("d", DATA[:-1] + b"x")], "has the digest"),
        ([("m", b"model"), ("d", DATA), ("e", b"")], "a third file"),
        ([("m", b"mod3l"), ("d", DATA)], "has the digest"),
        ([("m", b"model"), ("../d", DATA)], "leaves its folder"),
        ([("d", DATA), ("m", b"model")], "promises 5 bytes"),
    ],
)
def test_nothing_is_unpacked_unless_all_is_right(tmp_path, files, message):
    blob, out = layer_of(tmp_path / "layer", *files), tmp_path / "out"
    out.mkdir()
    with pytest.raises(InputError, match=message):
        unpack_file(blob, out / "m", file_digest=digest(b"model"), file_size=5, data=data_at(out))
    assert list(out.iterdir()) == []


def test_names_inside_the_archive_are_not_used(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    blob = layer_of(tmp_path / "layer", ("x/anything", b"model"), ("model.onnx", DATA))
    unpack_file(blob, out / "m", file_digest=digest(b"model"), file_size=5, data=data_at(out))
    assert sorted(p.name for p in out.iterdir()) == sorted(["m", data_name(digest(DATA))])


def test_one_file_is_expected_where_none_is_declared(tmp_path):
    blob = layer_of(tmp_path / "layer", ("m", b"model"), ("d", DATA))
    with pytest.raises(InputError, match="a second file"):
        unpack_file(blob, tmp_path / "m", file_digest=digest(b"model"), file_size=5)
    assert not (tmp_path / "m").exists()


def test_an_artifact_is_written_read_and_fetched_as_a_source(layout, add, large, tmp_path):
    writer = ArtifactWriter(layout)
    descriptor = add(writer, model_file=large)
    index = writer.finish(revision="r", tag="r")
    variant = read_variant(layout, descriptor.digest)
    assert (variant.file_digest, variant.data_digest, variant.data_size) == (
        digest(large.read_bytes()),
        digest(DATA),
        len(DATA),
    )
    dest, beside = tmp_path / "fetched.onnx", tmp_path / "beside"
    folder = fetch_model_file(layout, index.digest, dest, max_bytes=2**30, beside=beside)
    assert dest.read_bytes() == large.read_bytes()
    assert (folder / data_name(digest(DATA))).read_bytes() == DATA


def test_a_model_of_one_file_has_none(layout, add):
    variant = read_variant(layout, add(ArtifactWriter(layout)).digest)
    assert (variant.data_digest, variant.data_size) == ("", 0)


@pytest.mark.parametrize(
    "change",
    [
        {ANNOTATION_DATA_DIGEST: "sha256:../../x"},
        {ANNOTATION_DATA_DIGEST: digest(DATA).upper()},
        {ANNOTATION_DATA_SIZE: "-5"},
        {ANNOTATION_DATA_SIZE: "9" * 17},
        {ANNOTATION_DATA_SIZE: None},
        {ANNOTATION_DATA_DIGEST: None},
    ],
)
def test_manifests_of_strangers(layout, add, large, change):
    import json

    descriptor = add(ArtifactWriter(layout), model_file=large)
    document = json.loads(layout.manifest(descriptor.digest)[1])
    layer = next(entry for entry in document["layers"] if entry["mediaType"] == WEIGHT_LAYER)
    layer["annotations"] = {k: v for k, v in {**layer["annotations"], **change}.items() if v is not None}
    stored = layout.put_manifest(canonical(document), document["mediaType"])
    with pytest.raises(InputError, match="declares external data"):
        read_variant(layout, stored.digest)


def test_files_beside_a_model_stay_in_their_folder(layout, tmp_path):
    """Sources of strangers: a tar with the model in a folder, its data beside it, and something else."""
    blob = layer_of(tmp_path / "layer", ("m/README", b"text"), ("m/net.onnx", b"model"), ("m/sub/w.bin", b"weights"))
    layer = layout.put_blob(blob, media_type=WEIGHT_LAYER)
    config = layout.put_blob(b"{}", media_type="application/vnd.oci.empty.v1+json")
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.to_json(),
        "layers": [layer.to_json()],
    }
    stored = layout.put_manifest(canonical(manifest), manifest["mediaType"], "t")
    beside = tmp_path / "beside"
    folder = fetch_model_file(layout, stored.digest, tmp_path / "a.onnx", max_bytes=2**20, beside=beside)
    assert folder == beside / "m"
    assert (folder / "sub" / "w.bin").read_bytes() == b"weights"
    assert (tmp_path / "a.onnx").read_bytes() == b"model"
    assert fetch_model_file(layout, stored.digest, tmp_path / "b.onnx", max_bytes=2**20) is None
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix == ".onnx") == ["a.onnx", "b.onnx"]


def test_data_that_two_models_need_stay_for_the_other(large):
    other = large.with_name("other.onnx")
    other.write_bytes(large.read_bytes())
    data = companion(large).path
    remove_model(large)
    assert data.exists()
    remove_model(other)
    assert not data.exists()
    remove_model(other)

"""Packing is deterministic, and unpacking trusts nothing."""

import io
import os
import tarfile

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgemodel_api import reasons
from edgemodel_api.artifact import WEIGHT_LAYER
from edgemodel_api.errors import InputError
from edgemodel_oci import files as files_module
from edgemodel_oci import pack
from edgemodel_oci.pack import pack_file, packed_size, unpack_file


def test_equal_files_give_equal_bytes(tmp_path, content, sha256):
    packed = []
    for n, mode in enumerate((0o644, 0o600)):
        model = tmp_path / f"{n}.onnx"
        model.write_bytes(content)
        model.chmod(mode)
        os.utime(model, (n, n))
        packed.append(pack_file(model, tmp_path / f"{n}.layer", name="model.onnx"))
    assert packed[0] == packed[1]
    layer = (tmp_path / "0.layer").read_bytes()
    assert layer == (tmp_path / "1.layer").read_bytes()
    descriptor = packed[0].descriptor
    assert (descriptor.media_type, descriptor.digest, descriptor.size) == (WEIGHT_LAYER, sha256(layer), len(layer))
    assert (packed[0].file_digest, packed[0].file_size) == (sha256(content), len(content))
    assert packed_size(model, name="model.onnx") == len(layer)


def test_the_bytes_do_not_depend_on_the_number_of_cores(tmp_path, files, monkeypatch):
    digests = set()
    for threads in (1, 2, 4):
        monkeypatch.setattr(pack, "_THREADS", threads)
        digests.add(pack_file(files[0], tmp_path / "layer", name="m").descriptor.digest)
    assert len(digests) == 1


def test_what_is_packed_is_an_ordinary_tar(tmp_path, files, content, sha256):
    packed = pack_file(files[0], tmp_path / "layer", name="model.onnx")
    plain = zstandard.ZstdDecompressor().decompressobj().decompress((tmp_path / "layer").read_bytes())
    assert packed.diff_id == sha256(plain)
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        (member,) = archive.getmembers()
        assert (member.name, member.mode, member.uid, member.gid, member.mtime) == ("model.onnx", 0o644, 0, 0, 0)
        assert archive.extractfile(member).read() == content


@pytest.mark.parametrize("size", [0, 1, 5_000, 300_000, 40_000_000])
def test_the_window_fits_what_a_node_accepts(tmp_path, size):
    (tmp_path / "model").write_bytes(bytes(size))
    packed = pack_file(tmp_path / "model", tmp_path / "layer", name="m")
    frame = zstandard.get_frame_parameters((tmp_path / "layer").read_bytes()[:18])
    assert frame.window_size <= 1 << pack._WINDOW_LOG
    assert frame.has_checksum
    unpack_file(tmp_path / "layer", tmp_path / "out", file_digest=packed.file_digest, file_size=size)


def test_pruned_zeros_shrink_the_layer(tmp_path):
    noise = bytearray(os.urandom(100_000))
    (tmp_path / "dense").write_bytes(noise)
    noise[::2] = bytes(50_000)
    (tmp_path / "sparse").write_bytes(noise)
    assert packed_size(tmp_path / "sparse", name="m") < 0.75 * packed_size(tmp_path / "dense", name="m")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=5000))
def test_round_trip(tmp_path, data):
    (tmp_path / "model").write_bytes(data)
    packed = pack_file(tmp_path / "model", tmp_path / "layer", name="model.onnx")
    unpack_file(tmp_path / "layer", tmp_path / "out", file_digest=packed.file_digest, file_size=packed.file_size)
    assert (tmp_path / "out").read_bytes() == data


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "ü", "x" * 101])
def test_names_that_are_not_packed(tmp_path, files, name):
    with pytest.raises(InputError, match="no plain file name"):
        pack_file(files[0], tmp_path / "layer", name=name)
    assert not (tmp_path / "layer").exists()


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
def test_files_that_cannot_be_packed(tmp_path, kind):
    path = tmp_path / "model"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(InputError):
        pack_file(path, tmp_path / "layer", name="m")
    assert os.listdir(tmp_path) == [p for p in ["model"] if kind != "missing"]


def link(kind: bytes, name: str = "model.onnx", target: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def header(size: int, name: str = "model.onnx", kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


END = bytes(1024)
HOSTILE = {
    "path traversal": (lambda t, c: t(("../../evil", c)), "leaves its folder"),
    "absolute path": (lambda t, c: t(("/etc/cron.d/evil", c)), "leaves its folder"),
    "traversal in a pax header": (lambda t, c: t(("x" * 200 + "/../../evil", c)), "leaves its folder"),
    "traversal in a GNU name": (lambda t, c: t(("x" * 200 + "/../e", c), kind=tarfile.GNU_FORMAT), "leaves its"),
    "symbolic link": (lambda t, c: t(link(tarfile.SYMTYPE)), "no regular file"),
    "hard link": (lambda t, c: t(link(tarfile.LNKTYPE)), "no regular file"),
    "device": (lambda t, c: t(link(tarfile.CHRTYPE)), "no regular file"),
    "pipe": (lambda t, c: t(link(tarfile.FIFOTYPE)), "no regular file"),
    "link after the file": (lambda t, c: t(("model.onnx", c), link(tarfile.SYMTYPE)), "no regular file"),
    "two files": (lambda t, c: t(("model.onnx", c), ("b", b"x")), "a second file, 'b'"),
    "no file": (lambda t, c: t(), "holds no file"),
    "empty": (lambda t, c: b"", "cut off"),
    "larger than promised": (lambda t, c: t(("model.onnx", c + b"x")), "a file of 80001 bytes"),
    "smaller than promised": (lambda t, c: t(("model.onnx", c[:-1])), "a file of 79999 bytes"),
    "other content": (lambda t, c: t(("model.onnx", c[:-1] + b"x")), "has the digest"),
    "huge declared size": (lambda t, c: header(1 << 62) + c + END, "a file of 4611686018427387904"),
    "negative size": (lambda t, c: header(-1) + c + END, "-1 bytes|no tar archive"),
    "declares more than it has": (lambda t, c: header(len(c)) + c[:1000], "that its archive declares"),
    "no end of archive": (lambda t, c: header(len(c)) + c + bytes(-len(c) % 512), "cut off"),
    "huge pax header": (lambda t, c: header(1 << 40, kind=tarfile.XHDTYPE) + END, "a header of 1099511627776"),
    "huge GNU name": (lambda t, c: header(1 << 40, kind=tarfile.GNUTYPE_LONGNAME) + END, "a header of 10995"),
    "broken pax header": (lambda t, c: header(10, kind=tarfile.XHDTYPE) + b"99 a=b\n".ljust(512, b"\0"), "broken pax"),
    "sparse": (lambda t, c: header(0, kind=tarfile.GNUTYPE_SPARSE) + END, "sparse"),
    "data behind the end": (lambda t, c: t(("model.onnx", c)) + b"x" * 512, "goes on behind"),
    "zeros without end": (lambda t, c: t(("model.onnx", c)) + bytes(30_000_000), "goes on behind"),
    "bad checksum": (lambda t, c: b"x" * 512 + c, "no tar archive"),
    "many folders": (lambda t, c: header(0, "d", tarfile.DIRTYPE) * 10_001 + END, "more than 10000 members"),
}


@pytest.mark.parametrize(("make", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_archives(tmp_path, tar, zstd, content, sha256, make, message):
    (tmp_path / "layer").write_bytes(zstd(make(tar, content)))
    (tmp_path / "out").write_bytes(b"what was there before")
    with pytest.raises(InputError, match=message):
        unpack_file(tmp_path / "layer", tmp_path / "out", file_digest=sha256(content), file_size=len(content))
    assert sorted(os.listdir(tmp_path)) == ["layer", "out"]
    assert (tmp_path / "out").read_bytes() == b"what was there before"


def test_a_bomb_is_cut_at_the_promised_size(tmp_path, zstd, sha256, monkeypatch):
    written = 0
    put = files_module.put

    def counting(f, chunk, path):
        nonlocal written
        written += len(chunk)
        put(f, chunk, path)

    monkeypatch.setattr(pack, "put", counting)
    (tmp_path / "layer").write_bytes(zstd(header(1000) + bytes(50_000_000)))
    with pytest.raises(InputError):
        unpack_file(tmp_path / "layer", tmp_path / "out", file_digest=sha256(b"x"), file_size=1000)
    assert written == 1000


def test_cut_anywhere_a_layer_is_refused_or_complete(tmp_path, files, content):
    packed = pack_file(files[0], tmp_path / "whole", name="m")
    whole = (tmp_path / "whole").read_bytes()
    refused = 0
    for length in range(len(whole)):
        (tmp_path / "layer").write_bytes(whole[:length])
        try:
            unpack_file(tmp_path / "layer", tmp_path / "out", file_digest=packed.file_digest, file_size=len(content))
        except InputError:
            refused += 1
            assert not (tmp_path / "out").exists()
            continue
        # Only the last bytes (end of archive, checksum) are not needed to know that the file is right.
        assert (tmp_path / "out").read_bytes() == content
        (tmp_path / "out").unlink()
    assert refused >= len(whole) - 20


@pytest.mark.parametrize("data", [b"", b"not zstd at all", b"\x28\xb5\x2f\xfd" + b"\xff" * 50])
def test_not_zstd(tmp_path, sha256, data):
    (tmp_path / "layer").write_bytes(data)
    with pytest.raises(InputError):
        unpack_file(tmp_path / "layer", tmp_path / "out", file_digest=sha256(b""), file_size=0)


def test_a_window_that_would_eat_the_nodes_memory(tmp_path, tar, content, sha256):
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=27, write_content_size=False)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    archive = tar(("model.onnx", content))
    (tmp_path / "layer").write_bytes(compressor.compress(archive) + compressor.flush())
    with pytest.raises(InputError, match="memory"):
        unpack_file(tmp_path / "layer", tmp_path / "out", file_digest=sha256(content), file_size=len(content))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 2047), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_tar_gives_the_right_file_or_none(tmp_path, tar, zstd, sha256, position, bit):
    data = b"w" * 700
    archive = bytearray(tar(("model.onnx", data))[:3072])
    archive[position] ^= 1 << bit
    (tmp_path / "layer").write_bytes(zstd(bytes(archive)))
    try:
        unpack_file(tmp_path / "layer", tmp_path / "out", file_digest=sha256(data), file_size=len(data))
    except InputError:
        return
    assert (tmp_path / "out").read_bytes() == data


def test_links_in_the_way_are_not_followed(tmp_path, files, content):
    packed = pack_file(files[0], tmp_path / "layer", name="m")
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / ".out.tmp").symlink_to(victim)
    (tmp_path / "out").symlink_to(victim)
    unpack_file(tmp_path / "layer", tmp_path / "out", file_digest=packed.file_digest, file_size=packed.file_size)
    assert victim.read_bytes() == b"precious"
    assert (tmp_path / "out").read_bytes() == content


def test_a_full_disk_has_its_reason(tmp_path, files):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "wb", buffering=0) as f, pytest.raises(InputError, match="disk became full") as caught:
        pack.pack_stream(files[0], f, name="m", path=tmp_path / "layer")
    assert caught.value.reason == reasons.DISK_FULL

"""Push to and pull from a real registry process."""

import base64
import hashlib
import json

import httpx
import pytest

from edgemodel_api import reasons
from edgemodel_api.errors import InputError, TransientError
from edgemodel_oci import reference
from edgemodel_oci import registry as registry_module
from edgemodel_oci.artifact import attach_report, fetch_model_file, read_index, read_report, read_variant
from edgemodel_oci.credentials import Credentials
from edgemodel_oci.pack import unpack_file
from edgemodel_oci.pull import fetch_blob

pytestmark = pytest.mark.tools


def test_round_trip_gives_the_digests_of_a_layout(registry, open_at, write, files, tmp_path):
    repo = open_at(f"oci://{registry}/team/round-trip")
    index, variants = write(repo)
    assert (index, variants) == write(open_at(f"oci-layout://{tmp_path}/layout", create=True))
    assert write(repo) == (index, variants)

    found = read_index(repo, "r1")
    assert (found.descriptor.digest, found.revision) == (index.digest, "r1")
    assert [v.platform for v in found.variants] == ["linux/amd64", "linux/arm64"]
    variant = read_variant(repo, variants[0].digest)
    assert (variant.name, variant.platform, variant.classes) == ("source", "linux/amd64", ("amd64-vnni",))

    seen = []
    stats = fetch_blob(repo, variant.weight, tmp_path / "layer", progress=lambda *p: seen.append(p))
    assert (stats.bytes, stats.retries) == (variant.weight.size, 0)
    assert seen[0] == (0, variant.weight.size)
    assert seen[-1] == (variant.weight.size, variant.weight.size)
    unpack_file(tmp_path / "layer", tmp_path / "out", file_digest=variant.file_digest, file_size=variant.file_size)
    assert (tmp_path / "out").read_bytes() == files[0].read_bytes()
    fetch_model_file(repo, "r1", tmp_path / "source.onnx", max_bytes=10**7)
    assert (tmp_path / "source.onnx").read_bytes() == files[0].read_bytes()


@pytest.mark.parametrize("cuts", [1, 4])
def test_a_cut_connection_is_resumed_where_it_broke(
    registry, open_at, write, files, tmp_path, cutting_proxy, no_waiting, cuts
):
    _, variants = write(open_at(f"oci://{registry}/team/cut"))
    weight = read_variant(open_at(f"oci://{registry}/team/cut"), variants[0].digest).weight
    proxy = cutting_proxy(registry, after=100_000, cuts=cuts)
    stats = fetch_blob(open_at(f"oci://{proxy.host}/team/cut"), weight, tmp_path / "layer")
    assert hashlib.sha256((tmp_path / "layer").read_bytes()).hexdigest() == weight.digest[7:]
    assert stats.retries == cuts
    assert stats.bytes == weight.size  # nothing came twice
    assert proxy.bytes_down < weight.size + 10_000
    assert not (tmp_path / "layer.part").exists()


def test_what_came_before_a_failure_is_kept_for_the_next_call(
    registry, open_at, write, tmp_path, cutting_proxy, no_waiting
):
    direct = open_at(f"oci://{registry}/team/later")
    _, variants = write(direct)
    weight = read_variant(direct, variants[0].digest).weight
    proxy = cutting_proxy(registry, after=30_000, cuts=1000)
    with pytest.raises(TransientError, match="cannot be reached") as caught:
        fetch_blob(open_at(f"oci://{proxy.host}/team/later"), weight, tmp_path / "layer")
    assert caught.value.reason != reasons.DIGEST_MISMATCH
    part = (tmp_path / "layer.part").stat().st_size
    assert 0 < part < weight.size
    stats = fetch_blob(direct, weight, tmp_path / "layer")
    assert stats.bytes == weight.size - part


@pytest.mark.parametrize("size", [0, 1, 99_999, 100_000, 100_001, 350_000])
def test_chunked_uploads(registry, tmp_path, size):
    content = hashlib.shake_128(b"chunks").digest(size)
    (tmp_path / "blob").write_bytes(content)
    ref = reference.Reference.parse(f"oci://{registry}/team/chunks-{size}")
    with registry_module.Registry(ref, chunk_bytes=100_000) as repo:
        for source in (tmp_path / "blob", content):
            descriptor = repo.put_blob(source)
            assert descriptor.size == size
            assert b"".join(repo.open_blob(descriptor.digest)) == content
        assert repo.has_blob(descriptor.digest)
        assert not repo.has_blob("sha256:" + "0" * 64)


@pytest.mark.parametrize("after", [1_000, 150_000, 420_000])
@pytest.mark.parametrize("chunk_bytes", [100_000, 10**9])
def test_uploads_survive_cut_connections(registry, tmp_path, cutting_proxy, no_waiting, after, chunk_bytes):
    content = hashlib.shake_128(f"{after} {chunk_bytes}".encode()).digest(500_000)
    (tmp_path / "blob").write_bytes(content)
    proxy = cutting_proxy(registry, after=after, cuts=2, upstream=True)
    ref = reference.Reference.parse(f"oci://{proxy.host}/team/cut-upload")
    with registry_module.Registry(ref, chunk_bytes=chunk_bytes) as repo:
        descriptor = repo.put_blob(tmp_path / "blob")
        assert b"".join(repo.open_blob(descriptor.digest)) == content
    assert proxy.connections >= 2


def test_reports_are_referrers_and_the_newest_counts(registry, open_at, write):
    from datetime import UTC, datetime, timedelta

    repo = open_at(f"oci://{registry}/team/reports")
    index, _ = write(repo)
    assert read_report(repo, index.digest) is None
    now = datetime(2026, 11, 24, tzinfo=UTC)
    newer = attach_report(repo, index, b'{"n": 2}', created=now + timedelta(seconds=1))
    older = attach_report(repo, index, b'{"n": 1}', created=now)
    assert {d.digest for d in repo.referrers(index.digest)} == {newer.digest, older.digest}
    assert read_report(repo, index.digest) == b'{"n": 2}'


class TestAuthentication:
    def test_credentials_given(self, guarded_registry, open_at, write, login):
        repo = open_at(f"oci://{guarded_registry}/team/given", credentials=Credentials(*login))
        index, _ = write(repo)
        assert read_index(repo, "r1").descriptor.digest == index.digest

    def test_credentials_of_docker_login(self, guarded_registry, open_at, write, login, no_credentials_of_the_user):
        auth = base64.b64encode(":".join(login).encode()).decode()
        document = {"auths": {guarded_registry: {"auth": auth}}}
        (no_credentials_of_the_user / "config.json").write_text(json.dumps(document))
        write(open_at(f"oci://{guarded_registry}/team/stored"))

    @pytest.mark.parametrize(
        ("credentials", "message"),
        [
            pytest.param(None, "docker login", id="none"),
            pytest.param(Credentials("ali", "wrong"), "do not allow", id="wrong password"),
        ],
    )
    def test_refused(self, guarded_registry, open_at, credentials, message):
        repo = open_at(f"oci://{guarded_registry}/team/refused", credentials=credentials)
        with pytest.raises(InputError, match=message) as caught:
            repo.manifest("r1")
        assert "wrong" not in caught.value.message


def test_what_is_not_there(registry, open_at, tmp_path):
    from edgemodel_oci.descriptor import Descriptor

    repo = open_at(f"oci://{registry}/team/empty")
    with pytest.raises(InputError, match="has no manifest latest"):
        repo.manifest("latest")
    with pytest.raises(InputError, match="404"):
        fetch_blob(repo, Descriptor("application/x", "sha256:" + "0" * 64, 3), tmp_path / "blob")
    assert repo.referrers("sha256:" + "0" * 64) == ()


def test_nobody_listens(open_at, no_waiting):
    repo = open_at("oci://127.0.0.1:9/team/none")
    with pytest.raises(TransientError, match=r"127\.0\.0\.1:9 cannot be reached"):
        repo.manifest("latest")
    assert len(no_waiting) == 4


def test_the_registry_is_really_asked(registry):
    """The fixture is no fake."""
    assert httpx.get(f"http://{registry}/v2/").headers["Docker-Distribution-Api-Version"] == "registry/2.0"

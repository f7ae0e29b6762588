"""Files and layouts as sources; what goes over the network is in tests/integration/bad_input."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from edgemodel_api.edgemodel import RemoteFile
from edgemodel_api.errors import InputError
from edgemodel_api.reasons import DIGEST_MISMATCH
from edgemodel_compressor.sources import Fetched, fetch_source, local_path
from edgemodel_oci.reference import Reference
from edgemodel_oci.repository import open_repository

BASE = Path("/base")
PATHS = {
    "file:m.onnx": "/base/m.onnx",
    "file:./sub/m.onnx": "/base/sub/m.onnx",
    "file:../m.onnx": "/base/../m.onnx",
    "file:/abs/m.onnx": "/abs/m.onnx",
    "file:///abs/m.onnx": "/abs/m.onnx",
    "file://localhost/abs/m.onnx": "/abs/m.onnx",
    "file:a%20b.onnx": "/base/a b.onnx",
    "file:50%.onnx": "/base/50%.onnx",
    "file:a#1?.onnx": "/base/a#1?.onnx",
}


@pytest.mark.parametrize("uri", PATHS)
def test_file_uris(uri: str):
    assert local_path(uri, BASE) == Path(PATHS[uri])


@pytest.mark.parametrize("uri", ["file://m.onnx", "file://server/share/m.onnx", "file:///", "file:/"])
def test_file_uris_that_name_no_file(uri: str):
    with pytest.raises(InputError, match=r"host name|names no file"):
        local_path(uri, BASE)


def fetch(build: Any, uri: str, sha256: str | None = None, **more: Any) -> Fetched:
    work = build.folder / "work"
    work.mkdir(exist_ok=True)
    file = RemoteFile(uri=uri, sha256=sha256)
    return fetch_source(file, work / "m", base_dir=build.folder, max_bytes=more.pop("max_bytes", 1000), **more)


def test_a_file_is_copied_and_known(build: Any):
    build.save(b"content", "m.onnx")
    seen: list[tuple[int, int]] = []
    digest = hashlib.sha256(b"content").hexdigest()
    found = fetch(build, "file:m.onnx", digest, progress=lambda done, total: seen.append((done, total)))
    assert (found.sha256, found.size, found.folder) == (digest, 7, build.folder)
    assert found.path.read_bytes() == b"content"
    assert seen[-1] == (7, 7)


def test_a_copy_replaces_what_was_there_only_when_it_is_right(build: Any):
    build.save(b"old", "m.onnx")
    fetch(build, "file:m.onnx")
    build.save(b"new", "m.onnx")
    with pytest.raises(InputError) as caught:
        fetch(build, "file:m.onnx", "0" * 64)
    assert caught.value.reason == DIGEST_MISMATCH
    assert hashlib.sha256(b"new").hexdigest() in caught.value.message
    assert [p.read_bytes() for p in (build.folder / "work").iterdir()] == [b"old"]


@pytest.fixture
def claim(build: Any) -> Path:
    """The folder of the claim `models`."""
    folder = build.folder / "volumes" / "models"
    (folder / "v1").mkdir(parents=True)
    (folder / "v1" / "m x.onnx").write_bytes(b"content")
    (folder / "current").symlink_to("v1")
    (build.folder / "secret").write_bytes(b"secret")
    (folder / "out.onnx").symlink_to(build.folder / "secret")
    (folder / "up").symlink_to("../..")
    return folder


@pytest.mark.parametrize("path", ["v1/m x.onnx", "current/m x.onnx"])
def test_a_claim_s_file(build: Any, claim: Path, path: str):
    found = fetch(build, f"pvc://models/{path}", volumes_dir=claim.parent)
    assert found.path.read_bytes() == b"content"
    assert found.folder == claim / "v1", "external data lies beside the file that is meant"


CLAIM_FAULTS = {
    "link out of it": ("models/out.onnx", True, "leads out of the claim models"),
    "folder out of it": ("models/up/secret", True, "leads out of the claim models"),
    "missing file": ("models/v2.onnx", True, "there is no file .*beside it: out.onnx"),
    "folder": ("models/v1", True, "is a folder"),
    "other claim": ("other/m.onnx", True, "no folder .*/other for the claim other"),
    "a single machine": ("models/v1/m x.onnx", False, "use file: here, or .* EDGEMODEL_VOLUMES"),
}


@pytest.mark.parametrize("name", CLAIM_FAULTS)
def test_a_claim_s_faults(build: Any, claim: Path, name: str):
    path, there, words = CLAIM_FAULTS[name]
    with pytest.raises(InputError, match=words):
        fetch(build, f"pvc://{path}", volumes_dir=claim.parent if there else None)
    assert list((build.folder / "work").iterdir()) == []


def test_a_file_uri_in_a_pod(build: Any):
    with pytest.raises(InputError, match="which no pod sees: use pvc://CLAIM/PATH"):
        fetch(build, "file:/home/me/m.onnx", in_pod=True)


@pytest.fixture
def layout(build: Any) -> str:
    """An artifact as `oras push` makes it, in an image layout."""
    uri = f"oci-layout://{build.folder}/layout:v1"
    with open_repository(Reference.parse(uri), create=True) as repo:
        blob = repo.put_blob(b"content")
        empty = repo.put_blob(b"{}")
        layer = {
            "mediaType": "application/octet-stream", "digest": blob.digest, "size": blob.size,
            "annotations": {"org.opencontainers.image.title": "m.onnx"},
        }  # fmt: skip
        manifest = {
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": "application/vnd.acme.model",
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty.digest, "size": empty.size},
            "layers": [layer],
        }  # fmt: skip
        repo.put_manifest(json.dumps(manifest).encode(), manifest["mediaType"], tag="v1")
    return uri


def test_a_layout_s_model(build: Any, layout: str):
    found = fetch(build, layout)
    assert found.path.read_bytes() == b"content"
    assert (found.sha256, found.size, found.folder) == (hashlib.sha256(b"content").hexdigest(), 7, None)
    assert [p.name for p in (build.folder / "work").iterdir()] == ["m"]


LAYOUT_FAULTS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "wrong digest": (lambda uri: uri, {"sha256": "0" * 64}, "the manifest says 0000"),
    "too large": (lambda uri: uri, {"max_bytes": 6}, "7 bytes"),
    "no tag": (lambda uri: uri.removesuffix(":v1"), {}, "append :TAG"),
    "unknown tag": (lambda uri: uri.replace(":v1", ":v2"), {}, "v2"),
}


@pytest.mark.parametrize("name", LAYOUT_FAULTS)
def test_a_layout_s_faults(build: Any, layout: str, name: str):
    change, more, words = LAYOUT_FAULTS[name]
    with pytest.raises(InputError, match=words):
        fetch(build, change(layout), **more)
    assert list((build.folder / "work").iterdir()) == []

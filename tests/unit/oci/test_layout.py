import json
import os
import threading
import time

import pytest

from edgemodel_api.artifact import INDEX, MANIFEST
from edgemodel_api.errors import InputError, TransientError
from edgemodel_oci.layout import Layout
from edgemodel_oci.manifests import canonical
from edgemodel_oci.reference import Reference
from edgemodel_oci.repository import open_repository


def manifest(**members) -> bytes:
    return canonical({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [], **members})


def tags(layout: Layout) -> dict[str, str | None]:
    """Digest → tag of every entry of index.json."""
    entries = json.loads((layout.folder / "index.json").read_text())["manifests"]
    return {e["digest"]: e.get("annotations", {}).get("org.opencontainers.image.ref.name") for e in entries}


def test_tags_and_digests(layout):
    one = layout.put_manifest(manifest(n=1), MANIFEST, "r1")
    assert layout.manifest("r1") == (one, manifest(n=1))
    assert layout.manifest(one.digest) == (one, manifest(n=1))
    assert (one.media_type, one.size) == (MANIFEST, len(manifest(n=1)))
    with pytest.raises(InputError, match="has no tag 'r2': it has r1"):
        layout.manifest("r2")
    with pytest.raises(InputError, match="does not hold"):
        layout.manifest("sha256:" + "0" * 64)


def test_a_tag_moves_and_what_had_it_stays(layout):
    one = layout.put_manifest(manifest(n=1), MANIFEST, "t")
    two = layout.put_manifest(manifest(n=2), MANIFEST)
    assert tags(layout) == {one.digest: "t", two.digest: None}
    layout.put_manifest(manifest(n=2), MANIFEST, "t")
    assert tags(layout) == {one.digest: None, two.digest: "t"}
    before = (layout.folder / "index.json").read_bytes()
    layout.put_manifest(manifest(n=2), MANIFEST)
    layout.put_manifest(manifest(n=2), MANIFEST, "t")
    assert (layout.folder / "index.json").read_bytes() == before
    layout.put_manifest(manifest(n=2), MANIFEST, "u")
    assert layout.manifest("t") == layout.manifest("u")


def test_the_order_of_writing_does_not_show(tmp_path, snapshot):
    found = []
    for n, order in enumerate(((1, 2, 3), (3, 1, 2))):
        layout = Layout(Reference.parse(f"oci-layout://{tmp_path}/{n}"), create=True)
        for m in order:
            layout.put_manifest(manifest(n=m), MANIFEST, f"t{m}" if m > 1 else None)
        found.append(snapshot(layout.folder))
    assert found[0] == found[1]


def test_blobs(layout, tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    descriptor = layout.put_blob(tmp_path / "file", media_type="application/x")
    assert layout.put_blob(content, media_type="application/x") == descriptor
    assert layout.has_blob(descriptor.digest)
    assert b"".join(layout.open_blob(descriptor.digest, 100)) == content[100:]
    assert list(layout.open_blob(descriptor.digest, len(content))) == []
    assert os.listdir(layout.folder / "ingest") == []
    with pytest.raises(InputError, match="does not hold"):
        next(layout.open_blob("sha256:" + "0" * 64))


def test_a_stored_blob_that_lost_its_digest_is_written_again(layout, content):
    descriptor = layout.put_blob(content)
    (path,) = (layout.folder / "blobs/sha256").iterdir()
    path.write_bytes(b"x" * len(content))
    layout.put_blob(content)
    assert b"".join(layout.open_blob(descriptor.digest)) == content


def test_a_changed_manifest_is_not_returned(layout):
    one = layout.put_manifest(manifest(n=1), MANIFEST, "t")
    (layout.folder / "blobs/sha256" / one.digest[7:]).write_bytes(manifest(n=2))
    with pytest.raises(TransientError, match="was asked for"):
        layout.manifest("t")


def test_referrers(layout):
    subject = layout.put_manifest(manifest(n=1), MANIFEST, "t")
    assert layout.referrers(subject.digest) == ()
    members = {"subject": subject.to_json(), "artifactType": "application/r", "annotations": {"a": "b"}}
    one = layout.put_manifest(manifest(n=2, **members), MANIFEST)
    layout.put_manifest(manifest(n=3, subject={"digest": "sha256:" + "0" * 64}), MANIFEST)
    (found,) = layout.referrers(subject.digest)
    assert found == one
    assert (found.artifact_type, found.annotations) == ("application/r", {"a": "b"})


def test_many_writers_at_once(layout):
    threads = [
        threading.Thread(target=lambda n=n: layout.put_manifest(manifest(n=n), MANIFEST, f"t{n}")) for n in range(16)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(tags(layout).values()) == sorted(f"t{n}" for n in range(16))


@pytest.mark.parametrize("create", [False, True])
def test_a_folder_that_is_something_else(tmp_path, create):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(
        InputError, match=r"not empty and no image layout \('notes.txt'" if create else "no image layout"
    ):
        open_repository(Reference.parse(f"oci-layout://{tmp_path}"), create=create)
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_a_creator_that_was_killed(tmp_path):
    for names in (["blobs"], ["blobs", "index.json.lock"], ["index.json.lock"]):
        folder = tmp_path / "-".join(names)
        folder.mkdir()
        for name in names:
            (folder / name).mkdir() if name == "blobs" else (folder / name).touch()
        layout = Layout(Reference.parse(f"oci-layout://{folder}"), create=True)
        layout.put_manifest(manifest(), MANIFEST, "t")


def test_leftovers_of_killed_writers_go_after_a_day(layout, content):
    layout.put_blob(content)
    for name, age in (("old", 2 * 24 * 3600), ("young", 60)):
        (layout.folder / "ingest" / name).write_bytes(b"x")
        os.utime(layout.folder / "ingest" / name, (time.time() - age,) * 2)
    Layout(layout.reference, create=True)
    assert os.listdir(layout.folder / "ingest") == ["young"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("oci-layout", "{}", "version 'None'"),
        ("oci-layout", '{"imageLayoutVersion": "2.0.0"}', "version '2.0.0'"),
        ("oci-layout", "[", "no JSON object"),
        ("index.json", "[" * 100_000, "no JSON object"),
        ("index.json", '{"manifests": 1}', "no list"),
        ("index.json", '{"manifests": [1]}', "no JSON object"),
        ("index.json", '{"manifests": [{"mediaType": "a/b", "digest": "sha256:../../x", "size": 1}]}', "only sha256"),
        ("index.json", f'{{"manifests": [{{"mediaType": "a/b", "digest": "sha256:{"0" * 64}", "size": -1}}]}}', "size"),
    ],
)
def test_broken_layouts(layout, name, text, message):
    (layout.folder / name).write_text(text)
    with pytest.raises(InputError, match=message):
        Layout(layout.reference).manifest("t")


def test_a_pipe_as_a_blob_does_not_hang(layout):
    digest = "sha256:" + "0" * 64
    os.mkfifo(layout.folder / "blobs/sha256" / digest[7:])
    for call in (lambda: layout.manifest(digest), lambda: next(layout.open_blob(digest))):
        with pytest.raises(InputError, match="no regular file"):
            call()


def test_a_manifest_of_the_other_kind(layout):
    layout.put_manifest(canonical({"mediaType": INDEX, "layers": []}), INDEX, "t")
    with pytest.raises(InputError, match="other kind"):
        layout.manifest("t")


def test_a_parent_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        Layout(Reference.parse(f"oci-layout://{tmp_path}/file/x"), create=True)

"""Deleting an EdgeModel's artifacts from a real registry, and what stands in the way."""

import base64
import json
import socket
import time
from datetime import timedelta

import httpx
import pytest

from edgemodel_api.errors import InputError, TransientError
from edgemodel_oci.artifact import attach_report
from edgemodel_oci.reference import Reference
from edgemodel_oci.registry import NotDeletableError
from edgemodel_oci.remove import Removed, remove_all

pytestmark = pytest.mark.tools
SOON = timedelta(seconds=20)


@pytest.fixture
def logged_in(no_credentials_of_the_user, deleting_registry, login):
    """As the operator in its pod: a Secret of type dockerconfigjson at DOCKER_CONFIG."""
    auth = base64.b64encode(":".join(login).encode()).decode()
    config = {"auths": {deleting_registry: {"auth": auth}}}
    (no_credentials_of_the_user / "config.json").write_text(json.dumps(config))
    return login


def manifests_of(host: str, repository: str, login) -> dict[str, int]:
    """Status by digest and tag of everything that was ever named."""
    listed = httpx.get(f"http://{host}/v2/{repository}/tags/list", auth=login)
    tags = (listed.json().get("tags") or ()) if listed.status_code == 200 else ()
    return {t: httpx.get(f"http://{host}/v2/{repository}/manifests/{t}", auth=login).status_code for t in tags}


def test_everything_of_one_repository_and_nothing_of_another(deleting_registry, logged_in, open_at, write):
    mine, other = (Reference.parse(f"oci://{deleting_registry}/models/ns/{name}") for name in ("mine", "other"))
    digests = []
    for ref in (mine, other):
        repo = open_at(str(ref))
        for revision in ("r1", "r2"):
            index, variants = write(repo, revision)
            report = attach_report(repo, index, b"{}")
            digests += [d.digest for d in (index, *variants, report)] if ref is mine else []
    removed = remove_all(mine, [], within=SOON)
    # Two indexes, two variants that both revisions share, two reports (the fallback lists of referrers count too).
    assert removed.tags == 2
    assert removed.manifests >= 6
    assert removed.blob_bytes > 500_000
    base = f"http://{deleting_registry}/v2/{mine.repository}/manifests"
    assert {httpx.get(f"{base}/{d}", auth=logged_in).status_code for d in digests} == {404}
    assert manifests_of(deleting_registry, mine.repository, logged_in) == {}
    assert manifests_of(deleting_registry, other.repository, logged_in)["r1"] == 200

    again = remove_all(mine, digests, within=SOON)
    assert again == Removed(0, 0, 0)


def test_what_lost_its_tag_goes_by_its_digest(deleting_registry, logged_in, open_at, write):
    ref = Reference.parse(f"oci://{deleting_registry}/models/ns/untagged")
    repo = open_at(str(ref))
    old, _ = write(repo, "r1")
    moved = {"schemaVersion": 2, "mediaType": old.media_type, "manifests": []}
    repo.put_manifest(json.dumps(moved).encode(), old.media_type, "r1")
    removed = remove_all(ref, [old.digest], within=SOON)
    assert (removed.tags, removed.manifests) == (1, 4), "the empty index by its tag, the old one and its two variants"
    with pytest.raises(InputError):
        repo.manifest(old.digest)


def test_a_repository_that_never_was(deleting_registry, logged_in):
    ref = Reference.parse(f"oci://{deleting_registry}/models/ns/never")
    assert remove_all(ref, ["sha256:" + "0" * 64], within=SOON) == Removed(0, 0, 0)


def test_a_registry_that_deletes_nothing_says_so(registry, open_at, write):
    ref = Reference.parse(f"oci://{registry}/models/ns/kept")
    write(open_at(str(ref)))
    with pytest.raises(NotDeletableError, match=r"405 to DELETE.*REGISTRY_STORAGE_DELETE_ENABLED=true"):
        remove_all(ref, [], within=SOON)


def test_without_credentials(deleting_registry):
    with pytest.raises(InputError, match="docker login"):
        remove_all(Reference.parse(f"oci://{deleting_registry}/models/ns/x"), [], within=SOON)


def test_a_folder_is_left_alone(tmp_path):
    with pytest.raises(InputError, match="remove it by hand"):
        remove_all(Reference.parse(f"oci-layout://{tmp_path}"), [], within=SOON)


@pytest.mark.parametrize("accepts", [True, False], ids=["never answers", "refuses connections"])
def test_it_never_takes_much_longer_than_it_may(accepts):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if not accepts:
            server.close()
        begin = time.monotonic()
        with pytest.raises(TransientError):
            remove_all(Reference.parse(f"oci://127.0.0.1:{port}/a/b"), [], within=timedelta(seconds=3))
        assert time.monotonic() - begin < 15

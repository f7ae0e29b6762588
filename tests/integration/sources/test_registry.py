"""A registry with TLS of its own authority that wants a password."""

import base64
import hashlib
import json

import pytest

from edgemodel_compressor.credentials import CredentialsError, authorities
from edgemodel_oci.credentials import Credentials
from edgemodel_oci.reference import Reference
from edgemodel_oci.repository import Access, open_repository

pytestmark = [pytest.mark.tools, pytest.mark.usefixtures("tls_on_loopback")]
CONTENT = b"a model"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def artifact(registry, login, secret) -> str:
    """The URI of an artifact as `oras push` makes it."""
    uri = f"oci://{registry}/models/m:v1"
    access = Access(authorities(secret()))
    who = Credentials(login["username"], login["password"])
    with open_repository(Reference.parse(uri), credentials=who, access=access) as repo:
        blob, empty = repo.put_blob(CONTENT), repo.put_blob(b"{}")
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


def docker(host: str, username: str, password: str) -> dict[str, str]:
    """As `kubectl create secret docker-registry` writes it."""
    auth = base64.b64encode(f"{username}:{password}".encode()).decode()
    return {
        ".dockerconfigjson": json.dumps({"auths": {host: {"username": username, "password": password, "auth": auth}}})
    }


def test_the_secret_opens_it(fetch, secret, artifact, registry, login):
    keys = docker(registry, login["username"], login["password"])
    assert fetch(artifact, secret(keys), sha256=SHA256).path.read_bytes() == CONTENT


def test_an_authority_beside_docker_login(fetch, secret, artifact, registry, login, tmp_path):
    folder = tmp_path / "docker-config"
    folder.mkdir()
    keys = docker(registry, login["username"], login["password"])
    (folder / "config.json").write_text(keys[".dockerconfigjson"])
    assert fetch(artifact, secret(), sha256=SHA256).path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (lambda host: docker(host, "ali", "hidden"), "401 .*correct the Secret keys"),
        (lambda host: docker("other.example.com", "ali", "hidden"), "has nothing for localhost:.* --docker-server=localhost:"),
        (lambda host: {".dockerconfigjson": "hidden"}, "is no JSON"),
        (lambda host: {"username": "ali", "ca.crt": None}, r"no keys for oci \(it has: username\): it needs .dockerconfigjson"),
        (lambda host: {}, "wants a user name and password"),
    ],
    ids=["wrong password", "other host", "broken", "other keys", "authority alone"],
)  # fmt: skip
def test_what_is_wrong_is_said(fetch, secret, artifact, registry, keys, words):
    with pytest.raises(Exception, match=words) as caught:
        fetch(artifact, secret(keys(registry)), sha256=SHA256)
    assert "hidden" not in str(caught.value)
    if "Secret" in words:
        assert isinstance(caught.value, CredentialsError)

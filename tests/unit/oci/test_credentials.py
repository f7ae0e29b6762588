import base64
import json
import os

import pytest

from edgemodel_api.errors import InputError
from edgemodel_oci.auth import Challenge, parse_challenges, token_of
from edgemodel_oci.credentials import Credentials, credentials_from_file, find_credentials

HOST = "registry.example.com:5000"


def auth(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.fixture(autouse=True)
def docker(tmp_path, monkeypatch):
    """Write the Docker configuration; credential helpers are looked for in the folder `bin`."""
    folder = tmp_path / "docker"
    folder.mkdir()
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    return lambda document: (folder / "config.json").write_text(json.dumps(document))


def helper(tmp_path, script: str) -> None:
    path = tmp_path / "bin" / "docker-credential-test"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("auths", "expected"),
    [
        pytest.param({HOST: {"auth": auth("ali:pass:word")}}, Credentials("ali", "pass:word"), id="auth"),
        pytest.param({f"https://{HOST}/v1/": {"auth": auth("a:b")}}, Credentials("a", "b"), id="as a URL"),
        pytest.param({HOST: {"username": "a", "password": "b"}}, Credentials("a", "b"), id="in clear"),
        pytest.param({HOST: {"identitytoken": "tok"}}, Credentials(identity_token="tok"), id="identity token"),
        pytest.param({"other.example.com": {"auth": auth("a:b")}}, None, id="another host"),
        pytest.param({HOST: {}}, None, id="nothing in it"),
        pytest.param({HOST: "x"}, None, id="no object"),
    ],
)
def test_docker_configuration(docker, auths, expected):
    docker({"auths": auths})
    assert find_credentials(HOST) == expected


def test_nothing_stored():
    assert find_credentials(HOST) is None


def test_docker_hub_has_many_names(docker):
    docker({"auths": {"https://index.docker.io/v1/": {"auth": auth("a:b")}}})
    assert find_credentials("docker.io") == Credentials("a", "b")


def test_the_order_of_files(docker, tmp_path, monkeypatch):
    docker({"auths": {HOST: {"auth": auth("docker:x")}}})
    other = tmp_path / "auth.json"
    other.write_text(json.dumps({"auths": {HOST: {"auth": auth("podman:x")}}}))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(other))
    assert find_credentials(HOST) == Credentials("podman", "x")
    assert credentials_from_file(other, HOST) == Credentials("podman", "x")
    with pytest.raises(InputError, match="there is no file"):
        credentials_from_file(tmp_path / "none", HOST)


@pytest.mark.parametrize("where", ["credsStore", "credHelpers"])
def test_helpers(docker, tmp_path, where):
    helper(tmp_path, """read host; echo "{\\"Username\\": \\"u-$host\\", \\"Secret\\": \\"s\\"}" """)
    docker({where: "test" if where == "credsStore" else {HOST: "test"}})
    assert find_credentials(HOST) == Credentials(f"u-{HOST}", "s")


def test_a_helper_with_an_identity_token(docker, tmp_path):
    helper(tmp_path, """echo '{"Username": "<token>", "Secret": "s"}'""")
    docker({"credsStore": "test"})
    assert find_credentials(HOST) == Credentials(identity_token="s")


def test_a_helper_that_knows_nothing(docker, tmp_path):
    helper(tmp_path, "echo 'credentials not found'; exit 1")
    docker({"credsStore": "test", "auths": {HOST: {"auth": auth("a:b")}}})
    assert find_credentials(HOST) == Credentials("a", "b")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"credsStore": "../../bin/sh"}, "no name of a credential helper"),
        ({"credsStore": "missing"}, "does not run"),
        ({"auths": {HOST: {"auth": "!"}}}, "not base64"),
    ],
)
def test_broken_configurations(docker, document, message):
    docker(document)
    with pytest.raises(InputError, match=message):
        find_credentials(HOST)


def test_a_configuration_that_is_no_json(tmp_path):
    (tmp_path / "docker" / "config.json").write_text("{")
    with pytest.raises(InputError, match="no JSON"):
        find_credentials(HOST)


def test_secrets_are_not_shown():
    assert "hidden" not in repr(Credentials("a", "hidden", "hidden"))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Basic realm="x"', [Challenge("basic", {"realm": "x"})]),
        (
            'Bearer realm="https://a/t",service="s, \\"q\\"",scope="repository:a:pull,push"',
            [Challenge("bearer", {"realm": "https://a/t", "service": 's, "q"', "scope": "repository:a:pull,push"})],
        ),
        ("bearer realm=x, Basic realm=y", [Challenge("bearer", {"realm": "x"}), Challenge("basic", {"realm": "y"})]),
        ("Negotiate", [Challenge("negotiate", {})]),
        ("", []),
        ('"', []),
        ("a" * 100_000, []),
    ],
)
def test_challenges(header, expected):
    found = parse_challenges(header)
    assert found == expected
    assert [c.parameters for c in found] == [c.parameters for c in expected]


@pytest.mark.parametrize(
    ("content", "token"),
    [
        (b'{"token": "a"}', "a"),
        (b'{"access_token": "b"}', "b"),
        (b'{"token": 5}', None),
        (b'{"token": "a\\nb"}', None),
        (b'{"token": "\\u00e9"}', None),
        (b"[]", None),
        (b"<html>", None),
    ],
)
def test_tokens(content, token):
    assert token_of(content) == token

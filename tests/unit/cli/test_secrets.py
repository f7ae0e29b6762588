"""Where a single machine has what a cluster mounts."""

from pathlib import Path

import pytest

from edgemodel_api.edgemodel import Data, Source
from edgemodel_api.job import JobSpec
from edgemodel_cli.embedded.secrets import cache_folder, secrets_folder, with_secrets

SHA = "a" * 64
FOLDERS = {
    "given": ({"EDGEMODEL_CREDENTIALS": "/run/secrets", "XDG_CONFIG_HOME": "/x"}, "/run/secrets"),
    "configuration": ({"XDG_CONFIG_HOME": "/x"}, "/x/edgemodel/credentials"),
    "default": ({}, "/home/ali/.config/edgemodel/credentials"),
    "home": ({"EDGEMODEL_CREDENTIALS": "~/keys"}, "/home/ali/keys"),
}


@pytest.mark.parametrize(("environment", "expected"), FOLDERS.values(), ids=FOLDERS)
def test_where_secrets_are(monkeypatch, environment, expected):
    monkeypatch.setenv("HOME", "/home/ali")
    assert secrets_folder(environment) == Path(expected)


def test_a_job_gets_the_folders_that_are_there(tmp_path):
    (tmp_path / "keys").mkdir()
    (tmp_path / "web").mkdir()

    def file(uri, name):
        return {"uri": uri, "sha256": SHA, "credentials_secret_ref": {"name": name}}

    job = JobSpec(
        namespace="default", name="m", revision="r", platforms=("linux/amd64",), output="oci-layout:///x",
        source=Source(**file("s3://bucket/m", "keys")),
        data=Data(
            training=file("oci://x/t", "web"), calibration=file("https://x/c", "missing"), validation=file("pvc://x/v", "web")
        ),
    )  # fmt: skip
    environment = {"EDGEMODEL_CREDENTIALS": str(tmp_path), "EDGEMODEL_VOLUMES": str(tmp_path / "volumes")}
    found = with_secrets(job, environment)
    expected = {"source": str(tmp_path / "keys"), "training": str(tmp_path / "web")}
    assert found.credentials == expected, "what needs none or is missing is left out"
    assert found.volumes_dir == str(tmp_path / "volumes")
    assert with_secrets(job, {"HOME": "/nowhere"}).volumes_dir is None
    assert not found.in_pod


CACHES = {
    "default": ({}, "/home/ali/.cache/edgemodel/candidates"),
    "with other caches": ({"EDGEMODEL_CACHE": "/var/kept"}, "/var/kept/candidates"),
    "given": ({"EDGEMODEL_CACHE": "/var/kept", "EDGEMODEL_CANDIDATES": "/var/seen"}, "/var/seen"),
    "off": ({"EDGEMODEL_CACHE": "/var/kept", "EDGEMODEL_CANDIDATES": "off"}, None),
}


@pytest.mark.parametrize(("environment", "expected"), CACHES.values(), ids=CACHES)
def test_where_measurements_are_kept(monkeypatch, environment, expected):
    monkeypatch.setenv("HOME", "/home/ali")
    assert cache_folder(environment) == expected

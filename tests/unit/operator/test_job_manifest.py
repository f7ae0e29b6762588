"""The Job: what it may do, what it is called, and that its contract comes back as it was."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemodel_api.errors import InputError
from edgemodel_api.job import JobSpec
from edgemodel_operator.k8s import objects
from edgemodel_operator.k8s.job_manifest import ANNOTATION_JOB, job_name, label_value, manifest
from edgemodel_operator.settings import JobSettings

SETTINGS = JobSettings(image="registry.example.com/compressor:1")


@pytest.fixture
def built(model_body):
    def build(settings=SETTINGS, **spec):
        body = model_body()
        body["spec"]["source"] |= spec.pop("source", {})
        model = objects.parse_model(body)
        job = JobSpec(
            namespace="default", name="m", revision="0123456789ab", source=model.spec.source,
            platforms=("linux/amd64",), output="oci://registry.example.com/x", **spec,
        )  # fmt: skip
        return job, manifest(model, job, settings)

    return build


def test_it_can_do_little(built):
    pod = built()[1]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    security = pod["containers"][0]["securityContext"]
    assert security == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert set(pod["containers"][0]["resources"]) == {"requests", "limits"}


def test_the_plan_tries_again_and_not_kubernetes(built):
    spec = built()[1]["spec"]
    assert (spec["backoffLimit"], spec["template"]["spec"]["restartPolicy"]) == (0, "Never")
    assert spec["activeDeadlineSeconds"] == 7200


def test_the_contract_comes_back(built):
    job, body = built()
    text = body["spec"]["template"]["metadata"]["annotations"][ANNOTATION_JOB]
    expected = job.replace(volumes_dir="/volumes", in_pod=True, deadline_seconds=7200)
    assert JobSpec.model_validate_json(text) == expected


def test_a_contract_that_fits_nowhere(built):
    step = {"quantize": {"exclude": {"nodes": [f"{'x' * 1000}{i}" for i in range(300)]}}}
    with pytest.raises(InputError, match="at most 250000 fit: name fewer nodes"):
        built(compression={"steps": [step]})


def test_secrets_and_registries(built):
    settings = dataclasses.replace(
        SETTINGS, registry_secret="push", pull_secrets=("pull",), plain_http=("registry:5000",)
    )
    pod = built(settings)[1]["spec"]["template"]["spec"]
    environment = {e["name"]: e["value"] for e in pod["containers"][0]["env"]}
    assert environment["EDGEMODEL_PLAIN_HTTP_REGISTRIES"] == "registry:5000"
    where = next(m["mountPath"] for m in pod["containers"][0]["volumeMounts"] if m["name"] == "registry")
    assert environment["DOCKER_CONFIG"] == where
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    assert "DOCKER_CONFIG" not in str(built()[1])


SHA = "0" * 64
#: source, calibration and validation → what is mounted where.
INPUTS = {
    "nothing": ({}, {}),
    "credentials that nobody needs": ({"source": ("pvc://c/m.onnx", "s")}, {"/volumes/c": "c"}),
    "one of each": (
        {
            "source": ("oci://registry.example.com/m:1", "pull"),
            "calibration": ("s3://bucket/x.npz", "s3.keys"),
            "validation": ("https://example.com/x.npz", "web"),
        },
        {"/credentials/source": "pull", "/credentials/calibration": "s3.keys", "/credentials/validation": "web"},
    ),
    "the same Secret": (
        {"source": ("s3://bucket/m", "keys"), "validation": ("s3://bucket/v", "keys")},
        {"/credentials/source": "keys", "/credentials/validation": "keys"},
    ),
    "one claim for all": (
        {"source": ("pvc://b/m", None), "calibration": ("pvc://b/c", None), "validation": ("pvc://b/v", None)},
        {"/volumes/b": "b"},
    ),
    "training data, too": (
        {"training": ("pvc://b/t", None), "calibration": ("s3://bucket/x.npz", "s3.keys")},
        {"/volumes/b": "b", "/credentials/calibration": "s3.keys"},
    ),
    "two claims": (
        {"source": ("pvc://source/m", None), "calibration": ("pvc://a.b/c", None)},
        {"/volumes/source": "source", "/volumes/a.b": "a.b"},
    ),
}


@pytest.mark.parametrize("name", INPUTS)
def test_what_the_inputs_need_is_mounted_and_nothing_else(built, name):
    inputs, expected = INPUTS[name]

    def remote(what):
        uri, secret = inputs[what]
        reference = {} if secret is None else {"credentialsSecretRef": {"name": secret}}
        return {"uri": uri, **({} if uri.startswith("pvc:") else {"sha256": SHA}), **reference}

    source = {"source": remote("source")} if "source" in inputs else {}
    data = {what: remote(what) for what in inputs if what != "source"}
    body = built(**source, data=data)[1]
    pod = body["spec"]["template"]["spec"]
    volumes = {v["name"]: v for v in pod["volumes"]}
    assert len(volumes) == len(pod["volumes"]), "names are unique"
    assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", v) for v in volumes)
    mounts = {m["mountPath"]: m for m in pod["containers"][0]["volumeMounts"]}
    assert {m["name"] for m in mounts.values()} == set(volumes)
    found = {}
    for path, mount in mounts.items():
        volume = volumes[mount["name"]]
        if path in ("/work", "/contract"):
            continue
        assert mount["readOnly"] is True
        if "secret" in volume:
            assert volume["secret"]["defaultMode"] == 0o440
            found[path] = volume["secret"]["secretName"]
        else:
            assert volume["persistentVolumeClaim"]["readOnly"] is True
            found[path] = volume["persistentVolumeClaim"]["claimName"]
    assert found == expected
    contract = JobSpec.model_validate_json(body["spec"]["template"]["metadata"]["annotations"][ANNOTATION_JOB])
    assert contract.credentials == {
        path.removeprefix("/credentials/"): path for path in expected if path.startswith("/credentials/")
    }


NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,80}[a-z0-9])?", fullmatch=True)


@given(NAMES, NAMES, st.sampled_from(["0123456789ab", "ba9876543210"]))
def test_names_are_names_and_differ(one, other, revision):
    name = job_name(one, revision)
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= 52
    assert name.endswith(revision)
    assert (name == job_name(other, revision)) == (one == other)
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?", label_value(one))

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
    assert JobSpec.model_validate_json(text) == job


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


def test_credentials_of_an_oci_source(built):
    source = {"uri": "oci://registry.example.com/m:1", "credentialsSecretRef": {"name": "pull-model"}}
    pod = built(source=source)[1]["spec"]["template"]["spec"]
    environment = {e["name"]: e["value"] for e in pod["containers"][0]["env"]}
    assert environment["REGISTRY_AUTH_FILE"] == "/credentials/source/config.json"
    assert next(v for v in pod["volumes"] if v["name"] == "source")["secret"]["secretName"] == "pull-model"


NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9.]{0,80}[a-z0-9])?", fullmatch=True)


@given(NAMES, NAMES, st.sampled_from(["0123456789ab", "ba9876543210"]))
def test_names_are_names_and_differ(one, other, revision):
    name = job_name(one, revision)
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= 52
    assert name.endswith(revision)
    assert (name == job_name(other, revision)) == (one == other)
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?", label_value(one))

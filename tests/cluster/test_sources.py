"""What a Job mounts, before a real API server with the restricted Pod Security.

The pods of these Jobs never run (no node has so much CPU); tests/e2e runs them.
"""

from __future__ import annotations

import re

import pytest

from edgemodel_operator.k8s.client import RejectedError

from .conftest import wait

SHA = "a" * 64


def file(uri, secret=None):
    found = {"uri": uri} if uri.startswith("pvc:") else {"uri": uri, "sha256": SHA}
    return found if secret is None else {**found, "credentialsSecretRef": {"name": secret}}


# name: (source, calibration, validation, mount paths)
MOUNTS = {
    "https": (file("https://example.com/m", "web"), None, None, {"/credentials/source": "web"}),
    "oci": (file("oci://example.com/m:1", "pull"), None, None, {"/credentials/source": "pull"}),
    "s3": (
        file("s3://models/m", "s3.keys"),
        file("s3://models/c", "s3.keys"),
        None,
        {"/credentials/source": "s3.keys", "/credentials/calibration": "s3.keys"},
    ),
    "pvc": (
        file("pvc://models/m"),
        file("pvc://data.a/c"),
        file("pvc://models/v"),
        {"/volumes/models": "models", "/volumes/data.a": "data.a"},
    ),
    "all": (
        file("oci://example.com/m:1", "pull"),
        file("pvc://data/c"),
        file("https://example.com/v", "web"),
        {"/credentials/source": "pull", "/credentials/validation": "web", "/volumes/data": "data"},
    ),
}


@pytest.mark.parametrize("name", MOUNTS)
def test_restricted_pods_with_their_mounts(operator, model, agents, name):
    source, calibration, validation, expected = MOUNTS[name]
    data = {"calibration": calibration, "validation": validation}
    model.apply(source=source, data={k: v for k, v in data.items() if v is not None})
    wait(lambda: model.says("Compressed", "False", "Compressing"), "the Job", agents=agents)
    spec = model.pod()["spec"]
    volumes = {v["name"]: v for v in spec["volumes"]}
    found = {}
    for mount in spec["containers"][0]["volumeMounts"]:
        volume = volumes[mount["name"]]
        if "secret" in volume:
            found[mount["mountPath"]] = volume["secret"]["secretName"]
        if "persistentVolumeClaim" in volume:
            found[mount["mountPath"]] = volume["persistentVolumeClaim"]["claimName"]
    assert found == expected
    assert spec["automountServiceAccountToken"] is False


def test_a_claim_that_is_not_there_is_named(operator, model, agents):
    model.apply(source=file("pvc://my-models/m.onnx"))
    wait(
        lambda: (
            'persistentvolumeclaim "my-models" not found' in getattr(model.says("Compressed", "False"), "message", "")
        ),
        "the claim's name",
        40,
        agents,
    )


REFUSED = {
    "pvc without slashes": ({"source": {"uri": "pvc:claim/m"}}, "a pvc URI is written pvc://CLAIM/PATH"),
    "pvc that climbs": ({"data": {"calibration": {"uri": "pvc://claim/../m"}}}, "no '.' or '..'"),
    "s3 bucket": ({"source": file("s3://bucket")}, "an s3 URI is written s3://BUCKET/KEY"),
    "https host": ({"source": file("https://host")}, "an https URI is written https://HOST/PATH"),
    "password": ({"source": file("https://me:hidden@host/m")}, "a URI must hold no user name or password"),
    "name of a Secret": ({"source": file("s3://bucket/m", "../x")}, "credentialsSecretRef.name"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_api_server_refuses(model, name):
    spec, words = REFUSED[name]
    with pytest.raises(RejectedError, match=re.escape(words)) as caught:
        model.apply(**spec)
    assert "spec." in str(caught.value)

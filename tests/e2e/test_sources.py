"""Sources of each kind, fetched by real Jobs with credentials out of Secrets: https, s3, pvc. (The other stories use oci.)"""

from __future__ import annotations

import base64
import shutil

import pytest

from .kube import wait
from .model import COMPRESSION
from .servers import BUCKET, PASSWORD, REGION, USER, https_files, s3

CLAIM = "models"
NODE = "edge-1"


def secret(name: str, kind: str, **values: bytes | str) -> dict:
    data = {k: base64.b64encode(v if isinstance(v, bytes) else v.encode()).decode() for k, v in values.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": kind, "data": data}


def files_of(digits, where: str, secret_name: str = "") -> dict:
    """`source`, `data` and `deletionPolicy` of a spec, for files below a URI."""
    reference = {"credentialsSecretRef": {"name": secret_name}} if secret_name else {}

    def remote(name: str) -> dict:
        return {"uri": f"{where}/{name}", "sha256": digits.sha256(name), **reference}

    validation = {**remote("validation.npz"), "labels": "digit", "metric": "Top1"}
    # On a bed that stays up, the next run shall not find the revision built already: it would fetch nothing.
    return {"source": remote("model.onnx"), "data": {"validation": validation}, "deletionPolicy": "Delete"}


@pytest.fixture
def https_source(digits, bed):
    with https_files(digits.folder, bed.gateway) as found:
        yield found


def test_https_with_a_password_and_an_authority_of_its_own(model, https_source, digits, kube):
    base, certificate = https_source
    keys = secret("web", "kubernetes.io/basic-auth", username=USER, password="wrong", **{"ca.crt": certificate})
    kube.apply(keys, namespace=model.namespace)
    model.apply(**files_of(digits, base, "web"))
    refused = model.until("Compressed", "False", seconds=90, but=("Accepted", "Compressing"))
    assert "the username and password of the Secret web" in refused["message"], refused
    assert "wrong" not in refused["message"]

    # Corrected, the next try is all right: nobody has to touch the EdgeModel but to ask for it.
    keys = secret("web", "kubernetes.io/basic-auth", username=USER, password=PASSWORD, **{"ca.crt": certificate})
    kube.apply(keys, namespace=model.namespace)
    name = f"edgemodel/{model.name}"
    kube.kubectl("-n", model.namespace, "annotate", name, "edgemodel.dev/retry=1", "--overwrite")
    wait(lambda: not model.says("Stalled"), model.told, 20)
    model.until("Compressed")


@pytest.fixture
def s3_endpoint(digits, bed, tmp_path):
    with s3(tmp_path / "s3", bed.gateway, [digits.folder / n for n in ("model.onnx", "validation.npz")]) as found:
        yield found


def test_s3(model, s3_endpoint, digits, kube):
    keys = {
        "AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": PASSWORD, "AWS_REGION": REGION, "AWS_ENDPOINT_URL": s3_endpoint,
    }  # fmt: skip
    kube.apply(secret("bucket", "Opaque", **keys), namespace=model.namespace)
    # Without steps: all that a search tries must be in the image.
    model.apply(**files_of(digits, f"s3://{BUCKET}", "bucket"), compression={"budget": COMPRESSION["budget"]})
    compressed = model.until("Compressed", seconds=300)
    assert model.status()["variantCount"] > 2, compressed


@pytest.fixture
def claim(digits, bed, kube, namespace):
    """A volume that somebody filled beforehand, and a claim of it."""
    folder = bed.settings.bed().node(NODE) / "disk" / "var" / "lib" / "edgemodel-e2e-models"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(digits.folder, folder / "digits")
    volume = {
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "edgemodel-e2e-models"},
        "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadOnlyMany"], "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": "/var/lib/edgemodel-e2e-models"},
            "claimRef": {"name": CLAIM, "namespace": namespace},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}]}
            ]}},
        },
    }  # fmt: skip
    wanted = {
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM},
        "spec": {
            "accessModes": ["ReadOnlyMany"], "storageClassName": "", "volumeName": volume["metadata"]["name"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }  # fmt: skip
    kube.apply(volume)
    kube.apply(wanted, namespace=namespace)
    yield CLAIM
    kube.kubectl("-n", namespace, "delete", "pvc", CLAIM, "--wait=false")
    kube.kubectl("delete", "pv", volume["metadata"]["name"], "--wait=false")
    shutil.rmtree(folder)


def test_pvc(model, claim, digits):
    model.apply(**files_of(digits, f"pvc://{claim}/digits"))
    model.until("Compressed")

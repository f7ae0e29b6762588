"""A JobSpec as a batch/v1 Job. Pure.

One object holds everything: the Job's contract is an annotation of its pod, which a downward API volume lays down as
`job.json`. So there is no moment at which a Job lacks its contract, and no role over ConfigMaps.

The pod mounts the Secrets and claims that the source and the data name (docs/sources.md), read-only, and nothing else. The
kubelet reads them: the operator needs no right to.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

from edgemodel_api import API_VERSION, GROUP
from edgemodel_api.edgemodel import EdgeModel, RemoteFile
from edgemodel_api.errors import InputError
from edgemodel_api.job import JobSpec
from edgemodel_operator.settings import JobSettings

from .client import Body
from .objects import LABEL_MODEL, LABEL_REVISION, MANAGED_BY, MANAGER

CONTAINER = "compressor"
ANNOTATION_JOB = f"{GROUP}/job"
WORK = "/work"
CONTRACT = "/contract"
CREDENTIALS = "/credentials"
VOLUMES = "/volumes"
#: In the work folder, as /dev is not writable for the user that the pod runs as.
RESULT = f"{WORK}/result.json"
#: Labels have 63 characters at most, and a pod's name is the Job's and six more.
NAME_LIMIT = 52
#: All annotations of an object together have 256 KiB at most.
CONTRACT_LIMIT_BYTES = 250_000


def job_name(model: str, revision: str) -> str:
    """The same for the same revision, so that it never runs twice; readable, unless the model's name is long or has dots.

    >>> job_name("detector", "0123456789ab")
    'detector-0123456789ab'
    """
    whole = f"{model}-{revision}"
    if len(whole) <= NAME_LIMIT and "." not in model:
        return whole
    tail = f"-{hashlib.sha256(model.encode()).hexdigest()[:8]}-{revision}"
    return re.sub(r"[^a-z0-9]+", "-", model)[: NAME_LIMIT - len(tail)].strip("-") + tail


def label_value(name: str) -> str:
    """A model's name as the value of a label: cut, as a label has 63 characters at most."""
    return name[:63].rstrip("-.")


def manifest(model: EdgeModel, job: JobSpec, settings: JobSettings) -> Body:
    """The Job, owned by the EdgeModel.

    Raises:
        InputError: the contract is too long for an annotation.
    """
    job = job.replace(
        credentials={what: f"{CREDENTIALS}/{what}" for what in _secrets(job)},
        volumes_dir=VOLUMES,
        in_pod=True,
        deadline_seconds=settings.deadline.total_seconds(),
    )
    contract = job.model_dump_json(by_alias=True, exclude_none=True)
    if len(contract.encode()) > CONTRACT_LIMIT_BYTES:
        raise InputError(
            f"the Job's contract has {len(contract.encode())} bytes, at most {CONTRACT_LIMIT_BYTES} fit: name fewer nodes"
            " in include and exclude"
        )
    labels = {
        MANAGED_BY: MANAGER,
        "app.kubernetes.io/component": CONTAINER,
        LABEL_MODEL: label_value(model.metadata.name),
        LABEL_REVISION: job.revision,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(model.metadata.name, job.revision),
            "namespace": model.metadata.namespace,
            "labels": labels,
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": "EdgeModel",
                    "name": model.metadata.name,
                    "uid": model.metadata.uid,
                    "controller": True,
                    # Not true: it would need the right to update the owner's finalizers, for nothing.
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "spec": {
            # The plan tries again, and counts.
            "backoffLimit": 0,
            "activeDeadlineSeconds": int(settings.deadline.total_seconds()),
            "ttlSecondsAfterFinished": int(settings.keep.total_seconds()),
            "template": {
                "metadata": {"labels": labels, "annotations": {ANNOTATION_JOB: contract}},
                "spec": _pod(job, settings),
            },
        },
    }


def _pod(job: JobSpec, settings: JobSettings) -> Body:
    volumes: list[Body] = [
        {"name": "work", "emptyDir": {"sizeLimit": settings.disk}},
        {
            "name": "contract",
            "downwardAPI": {
                "items": [{"path": "job.json", "fieldRef": {"fieldPath": f"metadata.annotations['{ANNOTATION_JOB}']"}}]
            },
        },
    ]
    mounts: list[Body] = [
        {"name": "work", "mountPath": WORK},
        {"name": "contract", "mountPath": CONTRACT, "readOnly": True},
    ]
    environment = {"TMPDIR": WORK, "HOME": WORK}
    if settings.registry_secret:
        # As Docker's own file, which the compressor looks into for whatever has no Secret of its own.
        item = {"key": ".dockerconfigjson", "path": "config.json"}
        _mount("registry", {"secretName": settings.registry_secret, "items": [item]}, volumes, mounts)
        environment["DOCKER_CONFIG"] = f"{CREDENTIALS}/registry"
    for what, secret in _secrets(job).items():
        _mount(what, {"secretName": secret}, volumes, mounts)
    for number, claim in enumerate(claims(job.files.values())):
        name = f"claim-{number}"
        volumes.append({"name": name, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
        mounts.append({"name": name, "mountPath": f"{VOLUMES}/{claim}", "readOnly": True})
    if settings.plain_http:
        environment["EDGEMODEL_PLAIN_HTTP_REGISTRIES"] = ",".join(settings.plain_http)
    resources: dict[str, Any] = {"cpu": settings.cpu, "memory": settings.memory, "ephemeral-storage": settings.disk}
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "imagePullSecrets": [{"name": name} for name in settings.pull_secrets],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": CONTAINER,
                "image": settings.image,
                "command": ["python", "-m", "edgemodel_compressor"],
                "args": ["--job", f"{CONTRACT}/job.json", "--result", RESULT],
                "workingDir": WORK,
                "env": [{"name": name, "value": value} for name, value in sorted(environment.items())],
                "resources": {"requests": resources, "limits": resources},
                "terminationMessagePath": RESULT,
                "volumeMounts": mounts,
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
        "volumes": volumes,
    }


def claims(files: Iterable[RemoteFile]) -> tuple[str, ...]:
    """The claims of `pvc` URIs, each once, however many files lie on it.

    >>> claims([RemoteFile(uri="pvc://b/x"), RemoteFile(uri="pvc://a/y"), RemoteFile(uri="pvc://b/z")])
    ('a', 'b')
    """
    uris = (file.uri for file in files)
    return tuple(sorted({uri.removeprefix("pvc://").partition("/")[0] for uri in uris if uri.startswith("pvc://")}))


def _secrets(job: JobSpec) -> dict[str, str]:
    """The Secret's name of each file whose server wants one."""
    return {
        what: remote.credentials_secret_ref.name
        for what, remote in job.files.items()
        if remote.credentials_secret_ref is not None and remote.uri.startswith(("https:", "oci:", "s3:"))
    }


def _mount(name: str, secret: Body, volumes: list[Body], mounts: list[Body]) -> None:
    """A Secret below CREDENTIALS; readable by the pod's group (fsGroup), and by nobody else."""
    volumes.append({"name": name, "secret": {**secret, "defaultMode": 0o440}})
    mounts.append({"name": name, "mountPath": f"{CREDENTIALS}/{name}", "readOnly": True})

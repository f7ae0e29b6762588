"""Where objects lie in the API, and their JSON as `edgemodel_api` types."""

from __future__ import annotations

import logging

from pydantic import ValidationError

from edgemodel_api import API_VERSION, GROUP, VERSION
from edgemodel_api.edgemodel import EdgeModel
from edgemodel_api.edgenode import EdgeNode
from edgemodel_api.errors import InputError

from .client import Body

log = logging.getLogger(__name__)
#: Ours: an EdgeModel with it is taken from the nodes before it goes.
FINALIZER = f"{GROUP}/nodes"
LABEL_MODEL = f"{GROUP}/model"
LABEL_REVISION = f"{GROUP}/revision"
MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "edgemodel"
JOBS_SELECTOR = f"{MANAGED_BY}={MANAGER}"

NODES = "/api/v1/nodes"
EDGE_NODES = f"/apis/{GROUP}/{VERSION}/edgenodes"


def edge_models(namespace: str = "") -> str:
    """The EdgeModels of a namespace, or of all."""
    return f"/apis/{GROUP}/{VERSION}/{f'namespaces/{namespace}/' if namespace else ''}edgemodels"


def jobs(namespace: str = "") -> str:
    """The Jobs of a namespace, or of all."""
    return f"/apis/batch/v1/{f'namespaces/{namespace}/' if namespace else ''}jobs"


def pods(namespace: str) -> str:
    """The pods of a namespace."""
    return f"/api/v1/namespaces/{namespace}/pods"


def events(namespace: str) -> str:
    """The events of a namespace."""
    return f"/api/v1/namespaces/{namespace}/events"


def key_of(namespace: str, name: str) -> str:
    """As `EdgeModel.key`."""
    return f"{namespace}/{name}"


def version_of(body: Body) -> int:
    """The resource version: opaque by old rules, a growing number in fact and, since Kubernetes 1.35, by contract."""
    text = str(body.get("metadata", {}).get("resourceVersion") or "0")
    return int(text) if text.isdigit() else 0


def parse_model(body: Body) -> EdgeModel:
    """An EdgeModel as the API server gives it.

    A status with observedGeneration −1 (a default of the CRD, so that kstatus waits from the first moment) is none yet.

    Raises:
        InputError: written by another version of the types; says what is unknown.
    """
    status = dict(body.get("status") or {})
    if int(status.get("observedGeneration") or 0) < 0:
        status.pop("observedGeneration")
    try:
        return EdgeModel.model_validate(
            {"apiVersion": API_VERSION, "kind": "EdgeModel", "metadata": body["metadata"], "spec": body["spec"], "status": status}
        )  # fmt: skip
    except (ValidationError, KeyError) as error:
        raise InputError(f"EdgeModel {_name(body)} is not understood by this version: {_first(error)}") from None


def parse_node(body: Body) -> EdgeNode:
    """An EdgeNode as the API server gives it.

    A status that is not understood is none: its agent may be of another version, or hostile, and what is on the node
    must be taken away nevertheless.

    Raises:
        InputError: the rest was written by another version of the types; says what is unknown.
    """
    try:
        parts = {"metadata": body["metadata"], "spec": body.get("spec") or {}}
        try:
            return EdgeNode.model_validate({**parts, "status": body.get("status") or {}})
        except ValidationError as error:
            if any(found["loc"][:1] != ("status",) for found in error.errors()):
                raise
            log.warning("the status of EdgeNode %s counts as none: %s", _name(body), _first(error))
            return EdgeNode.model_validate(parts)
    except (ValidationError, KeyError) as error:
        raise InputError(f"EdgeNode {_name(body)} is not understood by this version: {_first(error)}") from None


def _name(body: Body) -> str:
    meta = body.get("metadata", {})
    return "/".join(str(meta[part]) for part in ("namespace", "name") if part in meta)


def _first(error: ValidationError | KeyError) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    found = error.errors()[0]
    return f"{'.'.join(str(p) for p in found['loc'])}: {found['msg']}"

"""What an uninstall asked of nodes (`edgemodel_operator.release`) holds no longer, once an operator is there again."""

from __future__ import annotations

import logging

from edgemodel_api.edgenode import RETIRE_ANNOTATION
from edgemodel_api.errors import EdgeModelError

from . import objects
from .client import Cluster

log = logging.getLogger(__name__)


def unretire(cluster: Cluster) -> None:
    """Take the annotation off all EdgeNodes; one that fails waits for the next start.

    Raises:
        EdgeModelError: they cannot be listed.
    """
    for body in cluster.listed(objects.EDGE_NODES)[0]:
        if RETIRE_ANNOTATION not in (body["metadata"].get("annotations") or {}):
            continue
        name = body["metadata"]["name"]
        try:
            cluster.merge(f"{objects.EDGE_NODES}/{name}", {"metadata": {"annotations": {RETIRE_ANNOTATION: None}}})
        except EdgeModelError as error:
            log.warning("EdgeNode %s stays asked to retire its standby: %s", name, error.message)

"""What the watches say. No handler writes anything: the writer of each EdgeModel does (`k8s.workers`)."""

# mypy: disable-error-code="untyped-decorator"
# (Kopf is followed no further by mypy, see pyproject.toml.)
from __future__ import annotations

from typing import Any

import kopf

from edgemodel_api import GROUP, VERSION
from edgemodel_operator.k8s import objects
from edgemodel_operator.k8s.jobs import owner_of

from .app import App


@kopf.on.event(GROUP, VERSION, "edgemodels")
async def edge_model(type: str | None, event: Any, memo: App, **_: Any) -> None:  # noqa: A002 - Kopf's name
    """Its own writer looks."""
    body = event["object"]
    if type != "DELETED":
        memo.told(memo.intake.model(body))
        return
    key = objects.key_of(body["metadata"]["namespace"], body["metadata"]["name"])
    memo.cache.models.drop(key)
    memo.told({key})


@kopf.on.event(GROUP, VERSION, "edgenodes")
async def edge_node(type: str | None, event: Any, memo: App, **_: Any) -> None:  # noqa: A002 - Kopf's name
    """Everybody who selects it, or has something on it, looks."""
    name = event["object"]["metadata"]["name"]
    if type == "DELETED":
        memo.told(memo.cache.concerned(memo.cache.nodes.drop(name)))
        return
    is_known = memo.cache.nodes.get(name) is not None
    memo.told(memo.intake.node(event["object"]))
    if not is_known:
        memo.labels.wake(name)


@kopf.on.event("batch", "v1", "jobs", labels={objects.MANAGED_BY: objects.MANAGER})
async def job(type: str | None, event: Any, memo: App, **_: Any) -> None:  # noqa: A002 - Kopf's name
    """The EdgeModel that it works for looks."""
    body = event["object"]
    if type != "DELETED":
        memo.told(memo.intake.job(body))
        return
    memo.reconciler.jobs.forget(body)
    memo.cache.jobs.drop(objects.key_of(body["metadata"]["namespace"], body["metadata"]["name"]))
    memo.told(filter(None, [owner_of(body)]))


@kopf.on.event("", "v1", "nodes")
async def node(type: str | None, event: Any, memo: App, **_: Any) -> None:  # noqa: A002 - Kopf's name
    """Its labels go to its EdgeNode."""
    meta = event["object"]["metadata"]
    if type == "DELETED":
        memo.cache.node_labels.drop(meta["name"])
        return
    change = memo.cache.node_labels.put(meta["name"], objects.version_of(event["object"]), meta.get("labels") or {})
    if change.is_new and change.before != meta.get("labels", {}):
        memo.labels.wake(meta["name"])

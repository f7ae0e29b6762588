"""A deleted EdgeModel is gone from every node, and from the registry if its `deletionPolicy` says so."""

from __future__ import annotations

import httpx
import pytest

from .kube import CommandError, program, run, wait


def answers(url: str) -> bool:
    try:
        return httpx.get(url.removesuffix("/infer"), timeout=3, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def in_registry(registry, reference: str, digest: str) -> bool:
    name = reference.removeprefix("oci://").partition("/")[2].partition("@")[0]
    with registry.outside() as host:
        try:
            run(program("oras"), "manifest", "fetch", "--plain-http", f"{host}/{name}@{digest}")
        except CommandError as error:
            if "not found" not in str(error):
                raise
            return False
    return True


@pytest.mark.parametrize("policy", ["Retain", "Delete"])
def test_it_is_gone_from_every_node_and_from_the_registry_as_the_policy_says(
    model, registry, native_nodes, kube, policy
):
    model.apply(deletionPolicy=policy)
    model.ready()
    endpoints = model.endpoints()
    assert sorted(endpoints) == native_nodes
    status = model.status()
    digests = {status["artifact"]["digest"], *(v["digest"] for v in status["variants"])}
    reference = status["artifact"]["reference"]
    assert all(in_registry(registry, reference, d) for d in digests)

    model.delete()
    assert kube.find("-n", model.namespace, "edgemodel", model.name) is None
    wait(lambda: not any(answers(e) for e in endpoints.values()), "the end of the servers", 60)
    wait(lambda: model.on_nodes() == {}, model.on_nodes, 60)
    assert not [
        n for n in kube.items("edgenodes") if any(m["name"] == model.name for m in n.get("spec", {}).get("models", []))
    ]
    kept = {d: in_registry(registry, reference, d) for d in digests}
    assert set(kept.values()) == {policy == "Retain"}, kept

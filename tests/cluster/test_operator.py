"""The flow of a revision through real objects; and the operator dying, the spec changing, things going away in it."""

from __future__ import annotations

import time

import pytest

from edgemodel_api.job import JobResult, Outcome
from edgemodel_operator.k8s import objects

from .conftest import digest_of, exists, remove, wait

REFUSAL = JobResult(outcome=Outcome.REFUSED, reason="BudgetExceeded", message="top-1 fell by 3.2%, at most 1% may")


def rolled_out(model, agents, seconds: float = 30.0):
    """Let the Job succeed and the waves go through; the Ready condition."""
    wait(lambda: model.says("Compressed", "False", "Compressing"), "the Job", agents=agents)
    model.finish_job()
    return wait(lambda: model.says("Ready"), "Ready", seconds, agents)


def test_applied_to_ready(cluster, operator, model, agents):
    model.apply()
    wait(lambda: model.says("Reconciling"), "the first status", 10)
    assert model.read().status.observed_generation == 1
    ready = rolled_out(model, agents)
    assert ready.message.startswith("3/3"), ready.message
    status = model.read().status
    assert (status.nodes.updated, status.nodes.desired, status.variant_count) == (3, 3, 2)
    assert {v.name for v in status.variants} == {"int8"}
    assert len(model.jobs()) == 1
    reasons = [reason for reason, _ in model.events()]
    assert reasons.count("CompressionSucceeded") == reasons.count("RolledOutToAll") == 1, model.events()
    assert any("3/3" in message for reason, message in model.events() if reason == "RolledOutToAll")

    # Nothing is written any more when nothing happens, however often it is looked at.
    before = cluster.get(model.path)["metadata"]["resourceVersion"]
    operator.kill()
    operator.start()
    time.sleep(4)
    assert cluster.get(model.path)["metadata"]["resourceVersion"] == before


def test_all_namespaces(operator, model, agents):
    """The other tests' operators serve one namespace each; the same rights are enough for all."""
    operator.kill()
    operator.namespace = ""
    operator.start()
    model.apply()
    wait(lambda: model.says("Compressed", "False", "Compressing"), "the Job", agents=agents)
    # Gracefully, as it may have put its finalizer on what another test leaves behind.
    assert operator.stop() == 0


@pytest.mark.parametrize(
    ("terminated", "reason", "words"),
    [
        ({"exitCode": 1, "message": REFUSAL.model_dump_json(by_alias=True)}, "BudgetExceeded", "3.2%"),
        ({"exitCode": 137, "reason": "OOMKilled"}, "WaitingForRetry", "OutOfMemory"),
        ({"exitCode": 139, "reason": "Error"}, "WaitingForRetry", "SIGSEGV"),
    ],
    ids=["refused", "out of memory", "crashed"],
)
def test_why_a_job_failed_is_told(operator, model, agents, terminated, reason, words):
    model.apply()
    wait(lambda: model.says("Compressed", "False", "Compressing"), "the Job", agents=agents)
    first = model.jobs()[0]["metadata"]["uid"]
    model.end_pod(terminated)
    found = wait(lambda: model.says("Compressed", "False", reason), reason, agents=agents)
    assert words in found.message
    assert (model.says("Stalled") is not None) == (reason == "BudgetExceeded")
    if reason == "WaitingForRetry":
        wait(lambda: model.says("Compressed", "False", "Compressing"), "another try", agents=agents)
    jobs = model.jobs()
    assert [j["metadata"]["uid"] == first for j in jobs] == [reason == "BudgetExceeded"]


def test_a_pod_that_no_node_takes(operator, model, agents):
    model.apply()
    wait(
        lambda: "no node takes its pod: " in getattr(model.says("Compressed", "False"), "message", ""),
        "the cause",
        40,
        agents,
    )


def test_a_job_that_the_api_server_refuses(cluster, operator, model, agents):
    """A quota: the cause is told, and once it is gone the next try gets through."""
    path = f"/api/v1/namespaces/{model.namespace}/resourcequotas"
    cluster.create(path, {"metadata": {"name": "none"}, "spec": {"hard": {"count/jobs.batch": "0"}}})
    wait(lambda: cluster.get(f"{path}/none").get("status", {}).get("hard"), "the quota")
    model.apply()
    found = wait(lambda: model.says("Compressed", "False", "WaitingForRetry"), "the failure", agents=agents)
    assert "try 1/5 failed: NotStarted: " in found.message
    assert "exceeded quota: none" in found.message
    remove(cluster, f"{path}/none")
    wait(model.jobs, "the next try", agents=agents)


def test_another_spec_in_the_middle(operator, model, agents):
    model.apply()
    wait(lambda: model.says("Compressed", "False", "Compressing"), "the Job", agents=agents)
    first = model.jobs()[0]["metadata"]["uid"]
    model.apply(sha256="b" * 64)
    wait(lambda: [j["metadata"]["uid"] for j in model.jobs()] not in ([], [first]), "the other Job", agents=agents)
    wait(lambda: len(model.jobs()) == 1, "the end of the first Job", agents=agents)
    rolled_out(model, agents)
    assert model.jobs()[0]["metadata"]["uid"] != first


def test_a_bad_revision_is_rolled_back(operator, model, agents):
    model.apply()
    rolled_out(model, agents)
    good = model.read().status.revision
    model.apply(sha256="b" * 64)
    wait(lambda: model.says("Compressed", "False", "Compressing"), "the second Job", agents=agents)
    # Before there is anything that could be told to a node, so that none can be quicker than this test.
    for agent in agents:
        agent.bad = {digest_of(f"{model.read().status.revision} {name}") for name in ("source", "int8")}
    model.finish_job()
    stalled = wait(lambda: model.says("Stalled", reason="RolledBack"), "the rollback", 60, agents)
    wait(lambda: model.says("Reconciling") is None, "all put back", agents=agents)
    assert "GoldenMismatch" in stalled.message
    assert {r.revision for a in agents for r in a.running.values()} == {good}


def test_killed_after_every_write(cluster, operator, model, agents):
    """Whatever it has just written, it dies; the revision gets through, and its Job ran once."""
    model.apply()
    jobs, kills, finished, seen = set(), 0, False, None
    deadline = time.monotonic() + 100
    while not model.says("Ready"):
        assert time.monotonic() < deadline, model.read().status.conditions
        for agent in agents:
            agent.step()
        jobs |= {j["metadata"]["uid"] for j in model.jobs()}
        nodes = [n for n in cluster.listed(objects.EDGE_NODES)[0] if n["metadata"]["name"].startswith(model.namespace)]
        now = (model.read().metadata.resource_version, [n["metadata"]["generation"] for n in nodes], len(jobs))
        if now != seen and kills < 12:
            operator.kill()
            operator.start()
            kills += 1
        seen = now
        if jobs and not finished and model.read().status.revision:
            model.finish_job()
            finished = True
        time.sleep(0.02)
    assert kills >= 6
    assert len(jobs) == 1


def test_deleted(cluster, operator, model, agents):
    model.apply()
    rolled_out(model, agents)
    assert objects.FINALIZER in model.read().metadata.finalizers
    remove(cluster, model.path)
    wait(lambda: not exists(cluster, model.path), "the end of the EdgeModel", 10)
    wait(lambda: not model.jobs(), "the end of its Job", 20)
    for agent in agents:
        assert not cluster.get(f"{objects.EDGE_NODES}/{agent.name}")["spec"]["models"]


def test_a_namespace_goes_without_an_operator(cluster, operator, model, agents):
    """Who stops the operator for good must not find that nothing can be deleted; the nodes are tidied up later."""
    model.apply()
    rolled_out(model, agents)
    assert operator.stop() == 0
    remove(cluster, model.path)
    assert not exists(cluster, model.path)
    operator.start()

    def tidy():
        return not any(cluster.get(f"{objects.EDGE_NODES}/{a.name}")["spec"]["models"] for a in agents)

    wait(tidy, "the nodes' specs")


def test_labels_follow_the_node(cluster, operator, model, agents):
    """The pool is selected by the labels that people put on their Nodes."""
    name = agents[0].name
    wait(lambda: exists(cluster, f"{objects.EDGE_NODES}/{name}"), "the EdgeNode", agents=agents)
    cluster.create(objects.NODES, {"metadata": {"name": name, "labels": {"site": "north"}}})
    try:
        labels = lambda: cluster.get(f"{objects.EDGE_NODES}/{name}")["metadata"]["labels"]  # noqa: E731
        wait(lambda: labels().get("site") == "north", "the label")
        assert labels()["pool"] == model.pool
        cluster.merge(f"{objects.NODES}/{name}", {"metadata": {"labels": {"site": None}}})
        wait(lambda: "site" not in labels(), "the label's end")
    finally:
        remove(cluster, f"{objects.NODES}/{name}")


def test_a_node_that_was_deleted_comes_back(cluster, model, agents):
    path = f"{objects.EDGE_NODES}/{agents[0].name}"
    wait(lambda: exists(cluster, path), "the EdgeNode", agents=agents)
    uid = cluster.get(path)["metadata"]["uid"]
    remove(cluster, path)
    wait(lambda: exists(cluster, path) and cluster.get(path)["metadata"]["uid"] != uid, "a new one", agents=agents)
    wait(lambda: cluster.get(path).get("status"), "its status", agents=agents)

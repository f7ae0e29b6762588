"""What a Job and its pod come to. The recorded ones are real; the rest follow KEP-3329 and the Job controller's words."""

from __future__ import annotations

import copy
from datetime import UTC, datetime

import pytest

from edgemodel_api.job import Outcome
from edgemodel_api.meta import get_condition
from edgemodel_operator.domain.observed import JobState, JobView, Observed, Settings
from edgemodel_operator.domain.plan import plan, wanted_revision
from edgemodel_operator.k8s import objects
from edgemodel_operator.k8s.job_view import is_finished, is_starting, job_view


@pytest.mark.parametrize(
    ("case", "outcome", "reason", "words"),
    [
        ("refused", Outcome.REFUSED, "", "3>1"),
        ("out of memory", Outcome.FAILED, "OutOfMemory", "memory limit of 64Mi"),
        ("crashed", Outcome.FAILED, "Crashed", "SIGSEGV (exit code 139)"),
        ("out of disk", Outcome.FAILED, "OutOfDisk", '"work" exceeds the limit "200Mi": raise'),
    ],
)
def test_recorded(recorded, case, outcome, reason, words):
    found = recorded[case]
    view = job_view(found["job"], [found["pod"]])
    assert (view.state, view.revision) == (
        JobState.FINISHED,
        found["job"]["metadata"]["labels"]["edgemodel.dev/revision"],
    )
    assert (view.result.outcome, view.result.reason) == (outcome, reason)
    assert words in view.result.message


def test_running(recorded):
    job = copy.deepcopy(recorded["refused"]["job"])
    # A failure that is only announced: pods still end.
    job["status"]["conditions"] = [c for c in job["status"]["conditions"] if c["type"] == "FailureTarget"]
    assert not is_finished(job)
    assert job_view(job, []).state is JobState.RUNNING


@pytest.mark.parametrize("pods", [[], [{"metadata": {}, "status": {"phase": "Failed"}}]], ids=["no pod", "never ran"])
def test_lost(recorded, pods):
    assert job_view(recorded["refused"]["job"], pods).state is JobState.LOST


def changed(recorded, *, terminated=None, status=None):
    found = copy.deepcopy(recorded["crashed"])
    found["pod"]["status"] |= status or {}
    found["pod"]["status"]["containerStatuses"][0]["state"]["terminated"] |= terminated or {}
    return job_view(found["job"], [found["pod"]])


@pytest.mark.parametrize(
    "status",
    [
        {"reason": "Evicted", "message": "The node was low on resource: memory."},
        {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]},
    ],
    ids=["evicted for the node", "preempted"],
)
def test_ended_for_the_sake_of_others_is_lost(recorded, status):
    assert changed(recorded, status=status).state is JobState.LOST


@pytest.mark.parametrize(
    ("terminated", "reason"),
    [
        ({"exitCode": 3, "message": "no json"}, "Crashed"),
        ({"exitCode": 0, "message": ""}, "NoResult"),
        ({"exitCode": 0, "message": '{"outcome":"Succeeded"}' + " " * 5000}, "NoResult"),
        ({"exitCode": 137, "reason": "OOMKilled", "message": '{"outcome":"Succeeded"}'}, "OutOfMemory"),
        ({"exitCode": 3, "message": '{"outcome":"Failed","reason":"Unavailable","message":"m"}'}, "Unavailable"),
        ({"exitCode": 200}, "Crashed"),
    ],
    ids=["not json", "nothing", "too long", "killed all the same", "failed and told", "no such signal"],
)
def test_messages(recorded, terminated, reason):
    assert changed(recorded, terminated=terminated).result.reason == reason


def test_deadline(recorded):
    job = copy.deepcopy(recorded["refused"]["job"])
    job["status"]["conditions"][-1]["reason"] = "DeadlineExceeded"
    view = job_view(job, [])
    assert view.result.reason == "DeadlineExceeded"
    assert "7200 s" in view.result.message


def test_the_newest_pod_counts(recorded):
    old, new = copy.deepcopy(recorded["crashed"]["pod"]), recorded["refused"]["pod"]
    old["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    assert job_view(recorded["refused"]["job"], [new, old]).result.outcome is Outcome.REFUSED


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                             "message": "0/3 nodes are available: 3 Insufficient cpu. preemption: 0/3 nodes"}]},
            "no node takes its pod: 0/3 nodes are available: 3 Insufficient cpu",
        ),
        (
            {"containerStatuses": [{"image": "x/y:1", "state": {"waiting": {"reason": "ErrImagePull"}}}]},
            "the image x/y:1 cannot be pulled",
        ),
        (
            {"containerStatuses": [{"state": {"waiting": {"reason": "CreateContainerConfigError", "message": "no secret"}}}]},
            "CreateContainerConfigError: no secret",
        ),
        ({"containerStatuses": [{"state": {"running": {}}}]}, ""),
        ({}, ""),
    ],
    ids=["no room", "no image", "no secret", "runs", "new"],
)  # fmt: skip
def test_why_it_does_not_start(recorded, status, words):
    job = copy.deepcopy(recorded["refused"]["job"])
    job["status"] = {"active": 1, "ready": 0}
    assert is_starting(job)
    view = job_view(job, [{"metadata": {}, "status": status}])
    assert view.state is JobState.RUNNING
    assert (words in view.note) if words else view.note == ""


def test_the_plan_tells_why(model_body, node_body, recorded):
    hardware = {"platform": "linux/amd64", "hardwareClass": "amd64-avx2"}
    now = datetime(2026, 1, 1, tzinfo=UTC)
    node = objects.parse_node(node_body(hardware=hardware, lastReportTime=now.isoformat()))
    model = objects.parse_model(model_body())
    revision, _ = wanted_revision(model, [node])

    def message(note: str) -> str:
        job = JobView(revision, JobState.RUNNING, note=note)
        settings = Settings(output="oci://registry.example.com/x")
        planned = plan(Observed(now=now, model=model, nodes=(node,), job=job, settings=settings))
        return get_condition(planned.status.conditions, "Compressed").message

    assert message("no node takes its pod") == f"{message('')}; no node takes its pod"


def waiting(volumes, *, ready: str | None = "False"):
    conditions = [{"type": "PodScheduled", "status": "True"}]
    if ready is not None:
        conditions.append({"type": "PodReadyToStartContainers", "status": ready})
    return {
        "metadata": {},
        "spec": {"volumes": volumes},
        "status": {
            "conditions": conditions,
            "containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}],
        },
    }


MOUNTED = [
    {"name": "work", "emptyDir": {}},
    {"name": "source", "secret": {"secretName": "models-s3"}},
    {"name": "validation", "secret": {"secretName": "models-s3"}},
    {"name": "claim-0", "persistentVolumeClaim": {"claimName": "data"}},
]


@pytest.mark.parametrize(
    ("ready", "note"),
    [
        ("False", "its pod waits for the Secret models-s3 and the claim data: create what is missing"),
        ("True", ""),
        (None, ""),
    ],
    ids=["volumes", "image", "unknown"],
)
def test_a_pod_that_waits_for_its_volumes(recorded, ready, note):
    job = copy.deepcopy(recorded["refused"]["job"])
    job["status"]["conditions"] = []
    found = job_view(job, [waiting(MOUNTED, ready=ready)]).note
    assert found.startswith(note)
    assert bool(found) == bool(note)


def test_a_pod_without_volumes_that_could_be_missing_waits_for_its_image(recorded):
    """On a busy node its sandbox, or what is told of it, may come late."""
    job = copy.deepcopy(recorded["refused"]["job"])
    job["status"]["conditions"] = []
    assert job_view(job, [waiting(MOUNTED[:1])]).note == ""

"""What the operator is told, and when."""

import pytest

from edgemodel_agent import decide as d
from edgemodel_agent.report import endpoint_of, model_status, progress_of, shown, trial_status, worth_writing
from edgemodel_agent.state import Download, Retry, TrialState
from edgemodel_api.edgemodel import ServingMode
from edgemodel_api.edgenode import AssignedTrial, EdgeNodeStatus, ModelStatus, Swap, TargetState, TrialResult


def facts(build, present="", **fields):
    if "digest" in fields:
        fields["digest"] = build.digest(fields["digest"])
    return d.Facts(present=frozenset(build.digest(n) for n in present), **fields)


def retry(build):
    return Retry(
        digest=build.digest("B"),
        count=3,
        at=build.start,
        not_before=build.at(8),
        reason="DownloadFailed",
        message="link down",
    )


CASES = {
    "nothing yet": (lambda b: (b.assigned("B"), b.state(), facts(b)), "Pending", ""),
    "downloading": (lambda b: (b.assigned("B"), b.state("A"), facts(b, alive=True, work=d.Work.FETCH, digest="B")), "Downloading", ""),
    "waiting to retry": (lambda b: (b.assigned("B"), b.state("A", retry=retry(b)), facts(b, alive=True)), "Downloading", "DownloadFailed"),
    "downloaded": (lambda b: (b.assigned("B"), b.state("A"), facts(b, "B", alive=True)), "Downloaded", ""),
    "prefetched": (lambda b: (b.assigned("B", swap=Swap.PREFETCH), b.state("A"), facts(b, "B", alive=True)), "Downloaded", ""),
    "checking": (lambda b: (b.assigned("B"), b.state("A"), facts(b, "B", alive=True, work=d.Work.CHECK, digest="B")), "Checking", ""),
    "failed": (lambda b: (b.assigned("B"), b.state("A", failure=b.failure("B")), facts(b, "B", alive=True)), "Failed", "GoldenMismatch"),
    "failed before, tried again": (lambda b: (b.assigned("B", attempt=2), b.state("A", failure=b.failure("B")), facts(b, "B", alive=True)), "Downloaded", ""),
    "serving": (lambda b: (b.assigned("B"), b.state("B"), facts(b, "B", alive=True)), "Serving", "Serving"),
    "after a reboot": (lambda b: (b.assigned("B"), b.state("B"), facts(b, "B")), "Downloaded", ""),
    "died once": (lambda b: (b.assigned("B"), b.state("B", crashes=1), facts(b, "B")), "Downloaded", "ServerCrashed"),
    "dies again and again": (lambda b: (b.assigned("B"), b.state("B", crashes=3), facts(b, "B", alive=True)), "Failed", "ServerCrashed"),
    "wrong again and again": (lambda b: (b.assigned("B"), b.state("B", bad_rechecks=3, trouble_reason="TooSlow"), facts(b, "B", alive=True)), "Failed", "TooSlow"),
    "rolled back": (lambda b: (b.assigned("B"), b.state("A", failure=b.failure("B").replace(reason="ServerCrashed")), facts(b, "AB", alive=True)), "Failed", "ServerCrashed"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_states(build, name):
    make, state, reason = CASES[name]
    assert progress_of(*make(build), build.start)[:2] == (TargetState(state), reason)


def test_the_retry_says_when_and_why(build):
    message = progress_of(build.assigned("B"), build.state("A", retry=retry(build)), facts(build), build.start)[2]
    assert message == "try 3 failed, the next one follows at 03:04:13 UTC: link down"


def test_running_is_what_answers_now(build):
    desired, state = build.assigned("B"), build.state("A")
    status = model_status(desired, state, facts(build, "B", alive=True), build.start, endpoint="http://x")
    assert (status.revision, status.running.revision, status.running.endpoint) == ("rev-B", "rev-A", "http://x")
    assert model_status(desired, state, facts(build, "B"), build.start, endpoint="").running is None


def test_download_numbers_are_of_this_target_only(build):
    state = build.state(download=Download(digest=build.digest("A"), bytes=7, seconds=0.25, retries=2))
    assert model_status(build.assigned("A"), state, facts(build), build.start, endpoint="").download_seconds == "0.25"
    other = model_status(build.assigned("B"), state, facts(build), build.start, endpoint="", fetching=3)
    assert (other.downloaded_bytes, other.download_seconds, other.download_retries) == (3, None, 0)


def test_changed_at_moves_only_with_the_state(build):
    desired, state = build.assigned("B"), build.state("B")
    first, _ = shown(desired, state, facts(build, "B", alive=True), build.at(1))
    again, _ = shown(desired, state.replace(shown=first), facts(build, "B", alive=True), build.at(2))
    dead, _ = shown(desired, state.replace(shown=first), facts(build, "B"), build.at(3))
    assert (first.at, again.at, dead.at) == (build.at(1), build.at(1), build.at(3))


@pytest.mark.parametrize(
    ("address", "mode", "expected"),
    [("10.0.0.7", ServingMode.SERVER, "http://10.0.0.7:8000/v2/models/m"),
     ("fd00::7", ServingMode.SERVER, "http://[fd00::7]:8000/v2/models/m"),
     ("10.0.0.7", ServingMode.FILES, "file:///var/m/current/model.onnx")],
    ids=["v4", "v6", "files"],
)  # fmt: skip
def test_endpoint(build, address, mode, expected):
    state = build.state(running="").replace(running=build.deployed("A", mode=mode))
    assert endpoint_of(state, address, "/var/m/current/model.onnx") == expected


def status_at(build, seconds, **fields):
    return EdgeNodeStatus(last_report_time=build.at(seconds), **fields)


def model(**fields):
    return (ModelStatus(namespace="default", name="m", revision="r", **fields),)


WRITES = {
    "the first": (lambda b: (None, status_at(b, 0)), True),
    "nothing changed": (lambda b: (status_at(b, 0), status_at(b, 1)), False),
    "heartbeat": (lambda b: (status_at(b, 0), status_at(b, 3)), True),
    "the clock went back": (lambda b: (status_at(b, 100), status_at(b, 0)), True),
    "only disk and memory": (lambda b: (status_at(b, 0), status_at(b, 1, disk_free_bytes=5, memory_free_bytes=6)), False),
    "only download progress": (
        lambda b: (status_at(b, 0, models=model()), status_at(b, 1, models=model(downloaded_bytes=9))), False),
    "a state": (
        lambda b: (status_at(b, 0, models=model()), status_at(b, 1, models=model(state="Downloading"))), True),
    "generation": (lambda b: (status_at(b, 0), status_at(b, 1, observed_generation=2)), True),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITES)
def test_when_it_is_written(build, name):
    make, expected = WRITES[name]
    assert worth_writing(*make(build)) is expected


def test_trial_results_stand_in_the_order_of_the_candidates(build):
    desired = AssignedTrial(namespace="d", name="m", revision="r", candidates=tuple(build.target(n) for n in "SAB"))
    results = [TrialResult(digest=build.digest(n), variant=n, passed=True) for n in "AS"]
    state = TrialState(namespace="d", name="m", revision="r", results=tuple(results))
    status = trial_status(desired, state)
    assert [r.variant for r in status.results] == ["S", "A"]
    assert not status.done
    last = TrialResult(digest=build.digest("B"), variant="B", passed=False)
    assert trial_status(desired, state.replace(results=(*results, last))).done

"""What `deletionPolicy: Delete` deletes, and what it says."""

from datetime import timedelta

import pytest

from edgemodel_api.errors import InputError, TransientError
from edgemodel_oci.registry import NotDeletableError
from edgemodel_oci.remove import Removed
from edgemodel_operator.k8s import artifacts as module
from edgemodel_operator.k8s import objects
from edgemodel_operator.k8s.artifacts import Artifacts, repositories

OUTPUT = "oci://registry.example.com/models/default/m"
OLD = "oci://old.example.com/models/default/m"
AT = "2026-01-01T12:00:00Z"


@pytest.fixture
def model(model_body):
    def make(policy="Delete", **more):
        body = model_body(**more)
        body["spec"]["deletionPolicy"] = policy
        return objects.parse_model(body)

    return make


@pytest.fixture
def registry(monkeypatch):
    """What was asked of it; `answer` is what it gives."""
    asked = []

    def remove_all(reference, known, *, within):
        asked.append((str(reference), frozenset(known), within))
        if isinstance(remove_all.answer, Exception):
            raise remove_all.answer
        return remove_all.answer

    remove_all.answer, remove_all.asked = Removed(2, 6, 1536), asked
    monkeypatch.setattr(module, "remove_all", remove_all)
    return remove_all


def test_retained_unless_asked_for(model, registry):
    assert Artifacts().remove(model("Retain"), OUTPUT) == ()
    assert registry.asked == []


def test_told_once_in_numbers(model, registry):
    artifacts = Artifacts(timedelta(seconds=7))
    (event,) = artifacts.remove(model(), OUTPUT)
    assert (event.type, event.reason) == ("Normal", "ArtifactsDeleted")
    assert event.message.startswith(f"2 revisions deleted from {OUTPUT} (6 manifests with layers of 1.5 KiB)")
    assert registry.asked == [(OUTPUT, frozenset(), timedelta(seconds=7))]
    assert artifacts.remove(model(), OUTPUT) == (), "a pass that failed afterwards comes again"
    assert len(artifacts.remove(model(uid="another by that name"), OUTPUT)) == 1


@pytest.mark.parametrize(
    "error",
    [
        NotDeletableError("it deletes nothing"),
        TransientError("it cannot be reached"),
        InputError("the credentials do not allow it"),
    ],
    ids=lambda e: e.message,
)
def test_what_could_not_be_is_told_and_holds_nothing_back(model, registry, error):
    registry.answer = error
    (event,) = Artifacts().remove(model(), OUTPUT)
    assert (event.type, event.reason) == ("Warning", "ArtifactsLeft")
    assert error.message in event.message
    assert OUTPUT in event.message


def test_a_name_that_no_repository_may_have(model):
    (event,) = Artifacts().remove(model(), "oci://registry.example.com/Models")
    assert event.reason == "ArtifactsLeft"


def test_repositories_of_earlier_days_and_digests_that_lost_their_tag(model):
    def digest(i):
        return f"sha256:{i:064x}"

    def candidate(i):
        return {"platform": "linux/amd64", "name": "int8", "digest": digest(i), "sizeBytes": 1}

    status = {
        "artifact": {"reference": OUTPUT, "digest": digest(1)},
        "candidates": [candidate(2)],
        "history": [
            {
                "revision": "r0",
                "result": "RolledOut",
                "finishedAt": AT,
                "artifact": {"reference": OLD, "digest": digest(3)},
                "candidates": [candidate(4)],
            },
            {"revision": "r", "result": "Refused", "finishedAt": AT},
        ],
    }
    assert repositories(model(status=status), OUTPUT) == {
        OUTPUT: frozenset({digest(1), digest(2)}),
        OLD: frozenset({digest(3), digest(4)}),
    }
    assert repositories(model(), OUTPUT) == {OUTPUT: frozenset()}

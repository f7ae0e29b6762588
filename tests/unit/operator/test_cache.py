"""The newest is known, whoever says it and in whatever order; and only what matters wakes anybody."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemodel_api.errors import InputError
from edgemodel_operator.k8s import objects
from edgemodel_operator.k8s.cache import Cache, Shelf, matters
from edgemodel_operator.k8s.listing import Intake, Listing

MINUTE = timedelta(minutes=1)


@given(st.permutations(range(1, 6)))
def test_the_newest_wins(order):
    shelf = Shelf()
    for version in order:
        shelf.put("k", version, f"v{version}")
    assert shelf.get("k") == "v5"


def test_a_listing_forgets_what_is_gone_but_not_what_is_younger():
    shelf = Shelf()
    for key, version in (("kept", 1), ("gone", 2), ("young", 9)):
        shelf.put(key, version, key)
    assert shelf.keep_only(["kept"], 5) == {"gone": "gone"}
    assert set(shelf.all()) == {"kept", "young"}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"lastReportTime": "2026-01-01T00:00:00Z"}, {"lastReportTime": "2026-01-01T00:00:20Z"}, False),
        ({"lastReportTime": "2026-01-01T00:00:00Z"}, {"lastReportTime": "2026-01-01T00:01:01Z"}, True),
        ({}, {"lastReportTime": "2026-01-01T00:00:00Z"}, True),
        ({"diskFreeBytes": 1}, {"diskFreeBytes": 2}, False),
        ({}, {"observedGeneration": 2}, True),
        ({}, {"models": [{"namespace": "a", "name": "b", "revision": "r"}]}, True),
    ],
    ids=["a heartbeat", "back online", "first report", "disk", "saw its spec", "a model"],
)
def test_what_matters(node_body, before, after, expected):
    one, two = (objects.parse_node(node_body(**status)) for status in (before, after))
    assert matters(one, two, MINUTE) is expected


def test_labels_matter_to_whom_they_concern(node_body, model_body):
    cache = Cache()
    intake = Intake(cache, MINUTE)
    assert intake.model(model_body()) == {"default/m"}
    assert intake.model(model_body()) == set()
    assert intake.node(node_body(version=2)) == {"default/m"}
    assert intake.node(node_body(version=3, labels={"pool": "b"})) == {"default/m"}
    assert intake.node(node_body(version=4, labels={"pool": "c"})) == set()


def test_who_is_assigned_is_concerned(node_body):
    target = {"revision": "r", "reference": "oci://x/y", "digest": "d", "variant": "v"}
    cache = Cache()
    body = node_body(labels={}, assigned=[{"namespace": "gone", "name": "m", "target": target}])
    assert Intake(cache, MINUTE).node(body) == {"gone/m"}


def test_what_is_not_understood_wakes_nobody(model_body, node_body, caplog):
    intake = Intake(Cache(), MINUTE)
    body = model_body()
    body["spec"]["fromTheFuture"] = 1
    assert intake.model(body) == set()
    assert "default/m is not understood by this version: spec.fromTheFuture" in caplog.text
    assert intake.node(node_body(assigned=[{"name": "m"}])) == set()
    assert "EdgeNode n1 is not understood" in caplog.text


def test_no_status_yet(model_body):
    """−1 is the CRD's default, with which kstatus waits from the first moment."""
    model = objects.parse_model(model_body(status={"observedGeneration": -1}))
    assert model.status.observed_generation == 0


class Restored:
    """An API server whose store is put back to an earlier day."""

    def __init__(self, bodies: dict[str, list], version: int) -> None:
        self.bodies, self.version = bodies, version

    def listed(self, path: str, *, selector: str = "") -> tuple[list, int]:
        return self.bodies.get(path, []), self.version


def test_a_store_that_was_restored_is_believed(model_body, node_body):
    cache = Cache()
    now = Restored({objects.EDGE_NODES: [node_body("n1", version=90), node_body("n2", version=91)],
                    objects.edge_models(): [model_body(version=92)]}, 100)  # fmt: skip
    listing = Listing(now, Intake(cache, MINUTE), ())
    listing.run()
    now.bodies = {objects.EDGE_NODES: [node_body("n1", version=40)], objects.edge_models(): [model_body(version=41)]}
    now.version = 50
    assert listing.run() == {"default/m"}
    assert list(cache.nodes.all()) == ["n1"]
    assert listing.intake.node(node_body("n1", version=51, diskFreeBytes=1, observedGeneration=1)) == {"default/m"}
    assert listing.run() == set()


def test_a_report_that_is_no_report(node_body):
    """The API server takes the year 0. What the operator told the node is known nevertheless, to be taken away."""
    body = node_body(assigned=[{"namespace": "default", "name": "m", "target": {
        "revision": "r", "reference": "oci://x/y", "digest": "sha256:" + "0" * 64, "variant": "int8"}}])  # fmt: skip
    body["status"] = {"lastReportTime": "0000-01-01T00:00:00Z"}
    node = objects.parse_node(body)
    assert node.status.last_report_time is None
    assert [m.key for m in node.spec.models] == ["default/m"]
    body["spec"] = {"models": 3}
    with pytest.raises(InputError):
        objects.parse_node(body)

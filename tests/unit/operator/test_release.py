"""What happens before an uninstall: against a cluster that is played by a dictionary."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta

import pytest

from edgemodel_api.edgenode import RETIRE_ANNOTATION
from edgemodel_api.errors import InputError, TransientError
from edgemodel_operator import release
from edgemodel_operator.k8s import objects
from edgemodel_operator.k8s.client import ConflictError, NotFoundError, RejectedError
from edgemodel_operator.k8s.retire import unretire

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
SCALE = "/apis/apps/v1/namespaces/system/deployments/operator/scale"
PODS = objects.pods("system")


class Played:
    """Lists by path, and what was written; `ends`: looks until the operator's pod is gone."""

    def __init__(self, models=(), nodes=(), *, ends=2, deployed=True):
        self.models, self.nodes = list(models), {n["metadata"]["name"]: n for n in nodes}
        self.ends, self.deployed = ends, deployed
        self.written: list[tuple] = []
        #: Called before each patch of a model.
        self.meanwhile = lambda: None
        self.failing: dict[str, Exception] = {}

    def listed(self, path, *, selector=""):
        if path == PODS:
            assert selector == "component=operator"
            self.ends -= 1
            return [{}] * (self.ends > 0), 1
        if path == objects.EDGE_NODES:
            if not self.nodes:
                raise NotFoundError("no such kind")
            return [copy.deepcopy(n) for n in self.nodes.values()], 1
        found = [
            m for m in self.models if path in (objects.edge_models(), objects.edge_models(m["metadata"]["namespace"]))
        ]
        return copy.deepcopy(found), 1

    def merge(self, path, body):
        self.written.append((path, body))
        name = path.rpartition("/")[2]
        if name in self.failing:
            raise self.failing[name]
        if path == SCALE and not self.deployed:
            raise NotFoundError("no operator")
        if path.startswith(objects.EDGE_NODES):
            if name not in self.nodes:
                raise NotFoundError("no such node")
            annotations = self.nodes[name]["metadata"].setdefault("annotations", {})
            for key, value in body["metadata"]["annotations"].items():
                annotations.pop(key, None)
                if value is not None:
                    annotations[key] = value
        return {}

    def patch(self, path, operations):
        self.meanwhile()
        self.written.append((path, operations))
        found = [
            m
            for m in self.models
            if path == f"{objects.edge_models(m['metadata']['namespace'])}/{m['metadata']['name']}"
        ]
        if not found:
            raise NotFoundError("no such model")
        test, remove = operations
        assert test["op"] == "test"
        index = int(test["path"].rpartition("/")[2])
        finalizers = found[0]["metadata"]["finalizers"]
        if finalizers[index : index + 1] != [test["value"]]:
            raise ConflictError("the test failed")
        assert remove == {"op": "remove", "path": test["path"]}
        del finalizers[index]
        return {}


def model(name="m", namespace="a", finalizers=(objects.FINALIZER,)):
    return {"metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}", "finalizers": list(finalizers)}}


def node(name, standby=None, age=5):
    status = {"lastReportTime": (NOW - timedelta(seconds=age)).isoformat().replace("+00:00", "Z")}
    if standby is not None:
        status["standby"] = standby
    return {"metadata": {"name": name, "uid": name, "resourceVersion": "1", "generation": 1}, "status": status}


class Time:
    """Passes by sleeping; `at`: what happens then."""

    def __init__(self):
        self.seconds = 0.0
        self.at: dict[float, object] = {}

    def clock(self):
        return self.seconds

    def sleep(self, seconds):
        self.seconds += seconds
        for when in sorted(t for t in self.at if t <= self.seconds):
            self.at.pop(when)()


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def run(time):
    def go(cluster, namespaces=(), seconds=30.0):
        operator = release.Operator("system", "operator", "component=operator")
        found = release.Release(cluster, operator, namespaces, time.clock, time.sleep, lambda: NOW)
        return found.run(seconds)

    return go


def test_the_operator_ends_before_anything_is_let_go(run, time):
    cluster = Played([model()], ends=4)
    assert run(cluster) == []
    assert cluster.written[0] == (SCALE, {"spec": {"replicas": 0}})
    assert cluster.models[0]["metadata"]["finalizers"] == []
    assert time.seconds == 3


def test_an_operator_that_does_not_end_is_told_and_the_rest_is_done(run, time):
    cluster = Played([model()], ends=10**6)
    left = run(cluster, seconds=20)
    assert left == ["the operator system/operator did not end within 20 s, and may hold on to EdgeModels again"]
    assert cluster.models[0]["metadata"]["finalizers"] == []
    assert time.seconds == 20


def test_without_an_operator_nothing_is_waited_for(run, time):
    assert run(Played([model()], deployed=False, ends=10**6)) == []
    assert time.seconds == 0


def test_others_finalizers_and_namespaces_stay(run):
    cluster = Played([
        model("mine", finalizers=("x/first", objects.FINALIZER, "x/last")),
        model("bare", finalizers=()),
        model("elsewhere", "b"),
    ])  # fmt: skip
    assert run(cluster, namespaces=("a",)) == []
    assert [m["metadata"]["finalizers"] for m in cluster.models] == [["x/first", "x/last"], [], [objects.FINALIZER]]


def test_a_model_that_somebody_else_writes_is_looked_at_again(run):
    cluster = Played([model()])

    def once():
        cluster.models[0]["metadata"]["finalizers"].insert(0, "x/new")
        cluster.meanwhile = lambda: None

    cluster.meanwhile = once
    assert run(cluster) == []
    assert cluster.models[0]["metadata"]["finalizers"] == ["x/new"]


def test_a_model_that_goes_meanwhile_is_fine(run):
    cluster = Played([model()])
    cluster.meanwhile = cluster.models.clear
    assert run(cluster) == []


def test_a_model_that_is_always_written_is_told(run):
    cluster = Played([model()])
    cluster.meanwhile = lambda: cluster.models[0]["metadata"]["finalizers"].insert(0, "x/again")
    assert run(cluster) == ["EdgeModel a/m keeps its finalizer: somebody else wrote it 5 times in a row"]


def test_nodes_with_a_standby_are_asked_and_waited_for(run, time):
    cluster = Played(nodes=[node("n1", "Waiting"), node("n2"), node("n3", "Retired"), node("n4", "Missing")])

    def retire():
        for name in ("n1", "n4"):
            cluster.nodes[name]["status"]["standby"] = "Retired"

    time.at[7] = retire
    assert run(cluster) == []
    asked = {n for n, body in cluster.nodes.items() if RETIRE_ANNOTATION in body["metadata"].get("annotations", {})}
    assert asked == {"n1", "n4"}
    assert 7 <= time.seconds < 10


def test_a_node_that_is_away_is_told_and_not_waited_for(run, time):
    left = run(Played(nodes=[node("n1", "Waiting", age=600)], ends=1))
    assert time.seconds == 0
    assert len(left) == 1
    assert "1 nodes did not say that their standby is gone (n1)" in left[0]


def test_nodes_that_do_not_answer_have_an_end(run, time):
    left = run(Played(nodes=[node(f"n{i:02}", "Waiting") for i in range(12)], ends=1), seconds=15)
    assert time.seconds == 15
    assert "12 nodes" in left[0]
    assert "n09 and 2 more" in left[0]


def test_a_node_that_cannot_be_asked_keeps_back_no_other(run):
    cluster = Played(nodes=[node("n1", "Waiting"), node("n2", "Waiting", age=600)])
    cluster.failing["n1"] = RejectedError("a webhook says no")
    left = run(cluster)
    assert left[0] == "node n1 was not asked to remove its standby: a webhook says no"
    assert "(n2)" in left[1]


def test_an_api_server_that_does_not_answer_is_an_error(run):
    cluster = Played()
    cluster.failing["scale"] = TransientError("the API server does not answer")
    with pytest.raises(TransientError):
        run(cluster)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--timeout", "soon"], "--timeout 'soon': 'soon' is not a duration"),
        ([], "edgemodel-release: no cluster: not in a pod"),
    ],
    ids=["a bad time", "no cluster"],
)
def test_bad_input_is_told_without_a_traceback(arguments, said, capsys, monkeypatch):
    def nowhere(*, pool):
        raise InputError("no cluster: not in a pod")

    # Never the real one: whoever runs the tests may have a cluster.
    monkeypatch.setattr(release, "connect", nowhere)
    code = release.main(["--namespace", "n", "--operator", "o", "--operator-pods", "a=b", *arguments])
    assert code == 2
    assert said in capsys.readouterr().err


def test_an_operator_that_starts_again_takes_the_wish_back():
    cluster = Played(nodes=[node("n1"), node("n2"), node("n3")])
    for name in ("n1", "n3"):
        cluster.nodes[name]["metadata"]["annotations"] = {RETIRE_ANNOTATION: "true", "a": "b"}
    cluster.failing["n1"] = RejectedError("no")
    unretire(cluster)
    assert [path.rpartition("/")[2] for path, _ in cluster.written] == ["n1", "n3"]
    assert cluster.nodes["n3"]["metadata"]["annotations"] == {"a": "b"}

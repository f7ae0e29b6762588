import pytest

from edgemodel_agent.objects import DirectoryObjects
from edgemodel_api.edgemodel_status import EdgeModelStatus
from edgemodel_api.edgenode import EdgeNodeSpec, EdgeNodeStatus
from edgemodel_api.errors import InputError
from edgemodel_cli.embedded.objects import ObjectStore, check_single


@pytest.fixture
def store(tmp_path):
    return ObjectStore(tmp_path)


def test_generation_grows_with_the_spec_only(store, make_model, now):
    assert store.apply_model(make_model(), now).metadata.generation == 1
    assert store.apply_model(make_model(), now).metadata.generation == 1
    assert store.apply_model(make_model(serving={"port": 8000}), now).metadata.generation == 2
    assert store.read_model("default", "m").metadata.generation == 2


def test_status_survives_a_new_spec(store, make_model, now):
    model = store.apply_model(make_model(), now)
    store.write_model_status(model, EdgeModelStatus(revision="r1"))
    assert store.apply_model(make_model(serving={"port": 8000}), now).status.revision == "r1"


def test_annotations_survive_a_new_spec(store, make_model, now):
    store.annotate_model(store.apply_model(make_model(), now), {"a": "1"})
    store.apply_model(make_model(serving={"port": 8000}), now)
    found = store.read_model("default", "m")
    assert (found.metadata.annotations, found.metadata.generation) == ({"a": "1"}, 2)


def test_a_stored_model_is_the_applied_one(store, make_model, now):
    applied = store.apply_model(make_model(), now)
    assert store.models() == (applied,)
    assert applied.metadata.creation_timestamp == now


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"metadata": {}, "spec": {}}'])
def test_a_damaged_model_counts_as_absent(store, make_model, now, tmp_path, content):
    store.apply_model(make_model(), now)
    (tmp_path / "edgemodels/default/m/spec.json").write_bytes(content)
    assert store.read_model("default", "m") is None


def test_agent_and_store_understand_each_other(store, make_node, now, tmp_path):
    agent = DirectoryObjects(tmp_path, "n1")
    store.register_node("n1", {"site": "north"})
    agent.register({"site": "north"})
    spec = make_node("n1", "Serving").spec
    store.write_node_spec(store.read_node("n1"), spec)
    assert agent.read_desired()[:2] == (1, spec)
    agent.write_status(EdgeNodeStatus(observed_generation=1, last_report_time=now))
    (node,) = store.nodes()
    assert (node.metadata.labels, node.metadata.generation, node.spec) == ({"site": "north"}, 1, spec)
    assert (node.status.observed_generation, node.status.last_report_time) == (1, now)


def test_an_equal_spec_is_not_written_again(store, make_node):
    store.register_node("n1", {})
    spec = make_node("n1", "Serving").spec
    store.write_node_spec(store.read_node("n1"), spec)
    before = store.stamps()
    store.write_node_spec(store.read_node("n1"), spec)
    assert store.stamps() == before
    store.write_node_spec(store.read_node("n1"), EdgeNodeSpec())
    assert store.stamps() != before
    assert store.read_node("n1").metadata.generation == 2


def test_nodes_are_forgotten(store):
    for name in ("a", "b", "c"):
        store.register_node(name, {})
    assert store.forget_nodes(["b"]) == ("a", "c")
    assert store.node_names() == ("b",)


def test_one_model_a_workdir(store, make_model, now, tmp_path):
    store.apply_model(make_model("m"), now)
    check_single(store.models(), make_model("m"), tmp_path)
    with pytest.raises(InputError, match="belongs to the EdgeModel default/m, and this is default/n"):
        check_single(store.models(), make_model("n"), tmp_path)

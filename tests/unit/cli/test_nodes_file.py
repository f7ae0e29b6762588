import json

import pytest

from edgemodel_agent.faults import Fault
from edgemodel_api.edgemodel import EdgeModelSpec, LabelSelector
from edgemodel_api.errors import InputError
from edgemodel_cli.nodes_file import check_port, choose_nodes, labels_for, load_nodes, numbered_nodes

FULL = """
nodes:
- name: gateway-1
  labels: {site: north}
  address: "::1"
  threads: 2
  rehearse: {fault: WrongOutput, at: Serving, after: 1}
- name: gateway-2
"""


def test_all_fields():
    first, second = load_nodes(FULL, file="n.yaml")
    assert (first.name, first.labels, first.address, first.threads) == ("gateway-1", {"site": "north"}, "::1", 2)
    assert first.rehearse.fault is Fault.WRONG_OUTPUT
    assert (second.address, second.rehearse, second.threads) == ("127.0.0.1", None, None)


BAD = {
    "nothing": ("", "n.yaml: 0 YAML documents, but one is needed, such as nodes: [{name: gateway-1"),
    "two documents": ("nodes: [{name: a}]\n---\nnodes: [{name: b}]", "n.yaml: 2 YAML documents"),
    "a list": ("- name: a", "n.yaml:1: expected a mapping, such as nodes:"),
    "no nodes": ("{}", "n.yaml:1: nodes: required, but missing, such as nodes:"),
    "empty nodes": ("nodes: []", "n.yaml:1: nodes: []:"),
    "no name": ("nodes:\n- labels: {}", "n.yaml:2: nodes[0].name: required, but missing"),
    "bad name": ("nodes:\n- name: Node_1", "n.yaml:2: nodes[0].name: 'Node_1' is not a name of lower-case letters"),
    "number as name": ("nodes:\n- name: 1", 'n.yaml:2: nodes[0].name: 1 is no text: put it in quotes, "1"'),
    "number as label": (
        "nodes:\n- name: a\n  labels: {x: 1}",
        'nodes[0].labels.x: 1 is no text: put it in quotes, "1"',
    ),
    "true as label": ("nodes:\n- name: a\n  labels: {x: true}", 'true is no text: put it in quotes, "true"'),
    "same name twice": ("nodes:\n- name: a\n- name: a", "n.yaml:1: nodes: more than one item with name 'a': keep one"),
    "unknown field": (
        "nodes:\n- name: a\n  lables: {}",
        "n.yaml:3: nodes[0].lables: unknown field; did you mean labels?",
    ),
    "unknown field at the top": ("nodes: [{name: a}]\npool: x", "n.yaml:2: pool: unknown field; allowed here: nodes"),
    "unknown field of a fault": (
        "nodes:\n- name: a\n  rehearse: {fault: Slow, when: Check}",
        "nodes[0].rehearse.when: unknown field; allowed here: fault, at, after",
    ),
    "unknown fault": (
        "nodes:\n- name: a\n  rehearse: {fault: Fire}",
        "nodes[0].rehearse.fault: 'Fire' is not allowed; use one of 'WrongOutput', 'Slow', 'Crash' or 'NoDisk'",
    ),
    "bad address": (
        "nodes:\n- name: a\n  address: here",
        "nodes[0].address: 'here' is not an IP address, such as 127.0.0.1",
    ),
    "no threads": (
        "nodes:\n- name: a\n  threads: 0",
        "nodes[0].threads: 0: input should be greater than or equal to 1",
    ),
    "not YAML": ("nodes: [", "n.yaml:1: not YAML"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_complaints_name_line_field_and_change(text, message):
    with pytest.raises(InputError) as caught:
        load_nodes(text, file="n.yaml")
    assert message in caught.value.message


def test_every_complaint_is_told_in_the_order_of_the_file():
    with pytest.raises(InputError) as caught:
        load_nodes("nodes:\n- name: A\n  threads: 0\n- adress: x\n", file="n.yaml")
    lines = caught.value.message.splitlines()
    assert [line.split(":")[1] for line in lines] == ["2", "3", "4", "4"]


@pytest.mark.parametrize(("count", "names"), [(1, ["node-1"]), (3, ["node-1", "node-2", "node-3"])])
def test_numbered(count, names):
    assert [n.name for n in numbered_nodes(count, LabelSelector())] == names


def test_many_numbered_nodes_sort_by_number():
    names = [n.name for n in numbered_nodes(120, LabelSelector())]
    assert names == sorted(names)


@pytest.mark.parametrize("count", [0, -1, 1001])
def test_count_out_of_range(count):
    with pytest.raises(InputError, match=rf"--nodes {count} is not between 1 and 1000"):
        numbered_nodes(count, LabelSelector())


SELECTORS = {
    "all": {},
    "labels": {"match_labels": {"pool": "cameras", "site": "north"}},
    "one of": {"match_expressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}]},
    "exists": {"match_expressions": [{"key": "gpu", "operator": "Exists"}]},
    "without": {"match_expressions": [{"key": "gpu", "operator": "DoesNotExist"}]},
    "not one of": {"match_expressions": [{"key": "tier", "operator": "NotIn", "values": ["a"]}]},
}


@pytest.mark.parametrize("fields", SELECTORS.values(), ids=SELECTORS)
def test_numbered_nodes_are_selected_by_the_manifests_selector(fields):
    selector = LabelSelector(**fields)
    assert selector.matches(labels_for(selector))


def test_both_options_exclude_each_other(tmp_path):
    with pytest.raises(InputError, match="exclude each other"):
        choose_nodes(3, tmp_path / "n.yaml", LabelSelector())


def test_three_nodes_by_default():
    assert len(choose_nodes(None, None, LabelSelector())) == 3


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"--nodes-file .*none\.yaml cannot be read: No such file"):
        choose_nodes(None, tmp_path / "none.yaml", LabelSelector())


def spec(**fields):
    return EdgeModelSpec.model_validate({"source": {"uri": "file:m.onnx"}, **fields})


FIXED = {"port": 8000}
PORTS = {
    "one node": (["127.0.0.1"], FIXED, None),
    "no fixed port": (["127.0.0.1", "127.0.0.1"], {}, None),
    "files need no port": (["127.0.0.1", "127.0.0.1"], {**FIXED, "mode": "Files"}, None),
    "addresses of their own": (["127.0.0.1", "127.0.0.2"], FIXED, None),
    "the same address": (["127.0.0.1", "127.0.0.2", "127.0.0.2"], FIXED, "n1 and n2 are both on this machine"),
    "one listens everywhere": (["127.0.0.1", "192.0.2.1"], FIXED, "n0 and n1 are both on this machine"),
}


@pytest.mark.parametrize(("addresses", "serving", "message"), PORTS.values(), ids=PORTS)
def test_a_fixed_port_can_be_had_once_for_each_address(addresses, serving, message):
    nodes = load_nodes(
        json.dumps({"nodes": [{"name": f"n{i}", "address": a} for i, a in enumerate(addresses)]}), file="n"
    )
    if message is None:
        check_port(nodes, spec(serving=serving))
        return
    with pytest.raises(InputError, match=message):
        check_port(nodes, spec(serving=serving))


def test_nodes_outside_of_the_pool_need_no_port():
    nodes = load_nodes("nodes: [{name: a, labels: {x: v}}, {name: b}]", file="n")
    check_port(nodes, spec(serving=FIXED, nodePool={"selector": {"matchLabels": {"x": "v"}}}))

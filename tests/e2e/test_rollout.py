"""Apply → Job → artifact in the registry → waves over all nodes → answers at each node's own address."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from .kube import program, run, wait


def test_from_apply_to_inference_on_each_node(digits_model, digits, registry, nodes, kube, tmp_path):
    model = digits_model
    assert "serverside-applied" in model.apply()
    name = f"edgemodel/{model.name}"
    # The first second included: no tool may take an object for done that nobody has looked at.
    wait(lambda: model.says("Reconciling"), model.told, 15)
    assert model.says("Ready") is None
    kube.kubectl("-n", model.namespace, "wait", "--for=condition=Ready", "--timeout=240s", name)
    assert model.says("Ready")["message"].startswith(f"{len(nodes)}/{len(nodes)}"), model.told()
    status = model.status()
    assert status["nodes"] == {
        "desired": len(nodes),
        "updated": len(nodes),
        "serving": len(nodes),
        "failed": 0,
        "offline": 0,
    }

    # One Job, which did its work at the first try and had no token.
    (job,) = model.jobs()
    assert job["status"]["succeeded"] == 1
    assert job["spec"]["template"]["spec"]["automountServiceAccountToken"] is False

    # What lies in the registry, looked at with the field's tool: an index with a manifest per platform and variant.
    reference = status["artifact"]["reference"].removeprefix("oci://").partition("/")[2].partition("@")[0]
    digest = status["artifact"]["digest"]
    with registry.outside() as host:
        index = json.loads(run(program("oras"), "manifest", "fetch", "--plain-http", f"{host}/{reference}@{digest}"))
        platforms = {f"{m['platform']['os']}/{m['platform']['architecture']}" for m in index["manifests"]}
        found = json.loads(
            run(program("oras"), "discover", "--plain-http", "--format", "json", f"{host}/{reference}@{digest}")
        )
        assert len(found["referrers"]) == 1, found  # the report
        expected = {
            v["digest"]: digits.expected(f"oci://{host}/{reference}", v["digest"], tmp_path) for v in status["variants"]
        }
    reported = {
        n["metadata"]["name"]: n["status"]["hardware"]
        for n in kube.items("edgenodes")
        if n["metadata"]["name"] in nodes
    }
    assert platforms == {h["platform"] for h in reported.values()} == set(status["platforms"])

    # Each node runs the variant of what its own agent found to be its hardware, and answers at its own address.
    classes = {v["hardwareClass"]: v for v in status["variants"]}
    right = 0
    for node in nodes:
        running = model.on_nodes()[node]["running"]
        assert running["digest"] == classes[reported[node]["hardwareClass"]]["digest"]
        assert running["revision"] == status["revision"]
        address = next(a["address"] for a in kube.get("node", node)["status"]["addresses"] if a["type"] == "InternalIP")
        assert running["endpoint"] == f"http://{address}:9800/v2/models/digits"
        for row in range(10):
            answer = model.ask(node, row, digits.request(row))
            assert not answer.problem, answer
            assert digits.is_right(row, answer.values, expected[running["digest"]]), (node, row, answer)
            right += int(np.argmax(answer.values)) == digits.labels[row]
    assert right >= 0.9 * 10 * len(nodes)

    waves = [e for e in model.events() if e.startswith("WaveStarted")]
    assert len(waves) == 2, model.events()


def test_the_arm64_node_is_one_by_what_its_agent_reports(rolled_out, bed, kube):
    """The kubelet says amd64 of it: what counts is what the agent in its (emulated) pod sees."""
    (node,) = kube.items("nodes", "-l", f"{bed.settings.ARCH_LABEL}=arm64")
    assert node["status"]["nodeInfo"]["architecture"] == "amd64"
    hardware = kube.get("edgenode", node["metadata"]["name"])["status"]["hardware"]
    assert (hardware["platform"], hardware["hardwareClass"]) == ("linux/arm64", "arm64-dotprod")


def test_kubectl_get_shows_what_matters(rolled_out, nodes, kube):
    head, line = kube.kubectl("-n", rolled_out.namespace, "get", "em").splitlines()
    shown = dict(zip(head.split(), line.split(), strict=True))
    revision = rolled_out.status()["revision"]
    assert (shown["NAME"], shown["READY"], shown["REVISION"]) == ("digits", "True", revision)
    assert (shown["UPDATED"], shown["DESIRED"]) == (str(len(nodes)), str(len(nodes)))
    assert int(shown["VARIANTS"]) >= 1
    assert "AGE" in shown
    listed = kube.kubectl("get", "en")
    assert all(node in listed for node in nodes)


def test_the_same_again_changes_nothing(rolled_out):
    def version() -> str:
        return rolled_out.object()["metadata"]["resourceVersion"]

    before = version()
    rolled_out.apply()
    time.sleep(3)
    assert version() == before
    assert len(rolled_out.jobs()) == 1


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"compression": {"steps": [{"prune": {"sparsity": "160%"}}]}}, "sparsity"),
        ({"source": {"uri": "ftp://example.com/m.onnx"}}, "uri"),
        ({"rollout": {"waves": []}}, "waves"),
        ({"rollouts": {}}, "rollouts"),
    ],
    ids=["sparsity", "scheme", "no waves", "unknown field"],
)
def test_a_bad_manifest_is_refused_by_the_api_server(model, changed, words):
    with pytest.raises(AssertionError, match=words):
        model.apply(**changed)

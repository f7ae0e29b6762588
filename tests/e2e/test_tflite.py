"""TFLite on nodes of each kind, the emulated arm64 one included; and Core ML beside it, which no node gets.

`lite` is TFLite and nothing else, so that every node must load, serve and update it. `mixed` asks for all three formats.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from edgemodel_agent.runtimes import load as load_model
from edgemodel_api.artifact import ANNOTATION_FORMAT
from edgemodel_api.report import CompressionReport
from edgemodel_oci.artifact import read_report, read_variant
from edgemodel_oci.golden import compare_outputs, load_golden
from edgemodel_oci.pull import fetch_blob
from edgemodel_oci.reference import Reference
from edgemodel_oci.repository import open_repository
from edgemodel_oci.source import fetch_model_file

from .conftest import ALL, Registry, is_out, spec_of
from .digits import MAX_BYTES, Digits
from .kube import Kube, program, run, wait
from .load import Load
from .model import Model, steps
from .release import NAMESPACE, Release

COREML_PLATFORM = "darwin/arm64"
#: In an agent's log: what became of a candidate in a trial.
TRIED = re.compile(r"trial of (?P<model>\S+): (?P<variant>\S+) (?P<reason>[A-Z]\w+)")
#: The Job writes and judges every encoding of every format; the emulated node measures each.
SECONDS = 420

pytestmark = pytest.mark.timeout(900)


@dataclass(frozen=True)
class Stored:
    """What the registry has of a revision: `entries` of the index, by digest, as the field's tool shows them."""

    registry: Registry
    path: str
    digest: str
    entries: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, model: Model, registry: Registry) -> Stored:
        artifact = model.status()["artifact"]
        path = artifact["reference"].removeprefix("oci://").partition("/")[2].partition("@")[0]
        with registry.outside() as host:
            told = run(program("oras"), "manifest", "fetch", "--plain-http", f"{host}/{path}@{artifact['digest']}")
        return cls(registry, path, artifact["digest"], {m["digest"]: m for m in json.loads(told)["manifests"]})

    def formats(self) -> dict[str, set[str]]:
        """Platform → formats of its variants, by their annotations; ONNX where there is none."""
        found: dict[str, set[str]] = {}
        for entry in self.entries.values():
            platform = f"{entry['platform']['os']}/{entry['platform']['architecture']}"
            found.setdefault(platform, set()).add(entry.get("annotations", {}).get(ANNOTATION_FORMAT, "ONNX"))
        return found

    def report(self, monkeypatch: pytest.MonkeyPatch) -> CompressionReport:
        """What refers to the index."""
        with self.registry.outside() as host:
            monkeypatch.setenv("EDGEMODEL_PLAIN_HTTP_REGISTRIES", host)
            with open_repository(Reference.parse(f"oci://{host}/{self.path}")) as repository:
                content = read_report(repository, self.digest)
        assert content is not None
        return CompressionReport.model_validate_json(content)

    def variant(self, digest: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Variant:
        """One of them, its files beside each other."""
        folder = folder / digest[7:19]
        folder.mkdir(exist_ok=True)
        with self.registry.outside() as host:
            monkeypatch.setenv("EDGEMODEL_PLAIN_HTTP_REGISTRIES", host)
            with open_repository(Reference.parse(f"oci://{host}/{self.path}")) as repository:
                found = read_variant(repository, digest)
                fetch_blob(repository, found.golden, folder / "golden.npz")
                fetch_model_file(repository, digest, folder / found.file_name, max_bytes=MAX_BYTES)
        return Variant(found, folder)


@dataclass(frozen=True)
class Variant:
    """A variant's manifest and files."""

    said: Any
    folder: Path

    def answers(self, digits: Digits) -> np.ndarray:
        """Of its own file, run here as a node does: (rows, 10)."""
        runtime = load_model(self.folder / self.said.file_name)
        rows = [runtime.run({"pixels": digits.pixels[i : i + 1]})["probabilities"] for i in range(digits.rows)]
        return np.concatenate(rows)

    def judge(self, ask: Callable[[dict[str, Any]], tuple[float, ...]]) -> None:
        """Every golden case is asked; the answers must be as near to the source's as the artifact promises."""
        inputs, expected, cases = load_golden(self.folder / "golden.npz")
        ((name, want),) = expected.items()
        got = [
            ask({"inputs": [{"name": n, "shape": [1, *a.shape[1:]], "datatype": "FP32", "data": a[i].ravel().tolist()} for n, a in inputs.items()]})
            for i in range(cases)
        ]  # fmt: skip
        score = compare_outputs({name: np.asarray(got, np.float32).reshape(want.shape)}, expected, cases)
        assert score.passes(self.said.golden_spec), (score, self.said.golden_spec)


# --- the models


def a_model(kube: Kube, namespace: str, sources: dict[str, Any], name: str, **changed: Any) -> Model:
    return Model(kube, namespace, name, spec_of(sources, ALL, **changed))


@pytest.fixture(scope="module")
def lite(kube: Kube, namespace: str, sources: dict[str, Any], nodes: list[str]) -> Iterator[Model]:
    """TFLite alone, at a fixed port."""
    found = a_model(kube, namespace, sources, "lite", formats=["TFLite"], serving={"port": 9802})
    yield found
    found.delete()


@pytest.fixture
def lite_out(lite: Model, nodes: list[str]) -> Model:
    return is_out(lite, nodes)


@pytest.fixture
def mixed(kube: Kube, namespace: str, sources: dict[str, Any], nodes: list[str]) -> Iterator[Model]:
    """All formats."""
    found = a_model(kube, namespace, sources, "mixed", formats=["ONNX", "TFLite", "CoreML"])
    yield found
    found.delete()


def hardware(kube: Kube, nodes: list[str]) -> dict[str, dict[str, Any]]:
    """Node → what its agent says that it is."""
    found = {n["metadata"]["name"]: n["status"] for n in kube.items("edgenodes")}
    return {node: {**found[node]["hardware"], "runtimes": found[node]["runtimes"]} for node in nodes}


def trial_results(release: Release, kube: Kube, model: Model) -> dict[str, dict[str, str]]:
    """Node → variant → result of its trial, by the agents' logs."""
    found: dict[str, dict[str, str]] = {}
    for pod in release.pods("agent"):
        for line in kube.kubectl("-n", NAMESPACE, "logs", pod["metadata"]["name"], "-c", "agent").splitlines():
            match = TRIED.search(line)
            if match and match["model"] == f"{model.namespace}/{model.name}":
                found.setdefault(pod["spec"]["nodeName"], {})[match["variant"]] = match["reason"]
    return found


def is_measured(model: Model, classes: set[str]) -> None:
    """Each class was tried on a node, and the numbers of what was chosen are in the status."""
    variants = {v["hardwareClass"]: v for v in model.status()["variants"]}
    assert set(variants) == classes, model.told()
    for v in variants.values():
        assert v["accepted"], v
        assert v["measuredOn"], v
        assert float(v["latencyMedianSeconds"]) > 0, v


# --- TFLite alone


def test_every_nodes_agent_has_a_runtime_for_tflite(kube, nodes):
    found = hardware(kube, nodes)
    assert {h["platform"] for h in found.values()} == {"linux/amd64", "linux/arm64"}
    for node, said in found.items():
        assert set(said["runtimes"]) == {"onnxruntime", "ai-edge-litert"}, node


def test_from_apply_to_the_golden_cases_on_each_node(lite, registry, nodes, kube, release, prometheus, tmp_path, monkeypatch):  # fmt: skip
    lite.apply()
    lite.ready(SECONDS)
    wait(lambda: set(lite.running()) == set(nodes), lite.told, 120)
    machines = hardware(kube, nodes)
    status = lite.status()
    (job,) = lite.jobs()
    assert job["status"]["succeeded"] == 1

    # The artifact: TFLite for both architectures, and nothing else; the source itself is such a file.
    stored = Stored.of(lite, registry)
    assert stored.formats() == {"linux/amd64": {"TFLite"}, "linux/arm64": {"TFLite"}}
    assert {c["format"] for c in status["candidates"]} == {"TFLite"}
    for platform in stored.formats():
        names = {c["name"] for c in status["candidates"] if c["platform"] == platform}
        assert "source" in names
        assert any(n.startswith("tflite-int8-weights") for n in names), names

    # The trial: each class measured every one of its candidates, and every one was right there.
    classes = {h["hardwareClass"]: h["platform"] for h in machines.values()}
    is_measured(lite, set(classes))
    tried = trial_results(release, kube, lite)
    for v in status["variants"]:
        candidates = {c["name"] for c in status["candidates"] if c["platform"] == classes[v["hardwareClass"]]}
        assert tried[v["measuredOn"]] == dict.fromkeys(candidates, "Passed"), tried
        assert v["format"] == "TFLite"
        # The smallest of them, which is no float.
        assert v["name"].startswith("tflite-int8"), v

    # Each node serves its class's file with LiteRT, and answers as the golden cases want it.
    chosen = {v["hardwareClass"]: v for v in status["variants"]}
    for node in nodes:
        running = lite.on_nodes()[node]["running"]
        variant = chosen[machines[node]["hardwareClass"]]
        assert (running["variant"], running["digest"]) == (variant["name"], variant["digest"])
        about = httpx.get(running["endpoint"], timeout=30).json()
        assert about["platform"] == "litert_tflite", about

        def ask(body: dict[str, Any], node: str = node) -> tuple[float, ...]:
            answer = lite.ask(node, 0, body)
            assert not answer.problem, answer
            return answer.values

        stored.variant(running["digest"], tmp_path, monkeypatch).judge(ask)

    # What is told elsewhere: the agents' series, the operator's, and the report.
    mine = f'namespace="{lite.namespace}", name="{lite.name}"'
    serving = {(n, chosen[machines[n]["hardwareClass"]]["name"]) for n in nodes}
    query = f"max by (node, variant) (edgemodel_agent_model_info{{{mine}}})"
    prometheus.until(query, lambda f: set(f) == serving)
    picked = {(v["hardwareClass"], v["name"]) for v in status["variants"]}
    query = f"max by (hardware_class, variant) (edgemodel_variant_info{{{mine}}})"
    prometheus.until(query, lambda f: set(f) == picked)
    rows = stored.report(monkeypatch).conversions
    assert all(row.ran_with.startswith("LiteRT ") for row in rows)
    assert {v["name"] for v in status["variants"]} <= {row.name for row in rows if row.accepted}


def test_no_request_fails_while_another_tflite_file_rolls_out(lite_out, digits, registry, nodes, tmp_path, monkeypatch):
    model = lite_out
    expected: dict[str, list[np.ndarray]] = {}

    def remember() -> str:
        """Revision → what its variants answer."""
        status, stored = model.status(), Stored.of(model, registry)
        files = {v["digest"] for v in status["variants"]}
        expected[status["revision"]] = [stored.variant(d, tmp_path, monkeypatch).answers(digits) for d in files]
        return str(status["revision"])

    old = remember()
    before = model.endpoints()
    with Load(before, digits.request, rate=2) as load:
        wait(lambda: {a.node for a in load.answers} == set(nodes), "an answer from each node")
        model.apply(compression=steps(55))
        wait(lambda: model.status().get("revision") not in (None, old), model.told, 20)
        model.ready(SECONDS)
        after, new = len(load.answers), model.status()["revision"]
        wait(lambda: {a.node for a in load.answers[after:] if a.revision == new} == set(nodes), "answers of the new one")  # fmt: skip
    assert remember() == new
    assert load.failed() == [], load.failed()[:5]
    assert model.endpoints() == before
    for node in nodes:
        assert {a.revision for a in load.answers if a.node == node} == {old, new}, node
    wrong = [a for a in load.answers if not any(digits.is_right(a.row, a.values, e) for e in expected[a.revision])]
    assert wrong == [], wrong[:3]


# --- beside others


def test_all_formats_are_built_and_nodes_try_what_they_load(mixed, registry, nodes, kube, release, monkeypatch):
    mixed.apply()
    mixed.ready(SECONDS)
    wait(lambda: set(mixed.running()) == set(nodes), mixed.told, 120)
    status, stored = mixed.status(), Stored.of(mixed, registry)
    both = {"ONNX", "TFLite"}
    assert stored.formats() == {"linux/amd64": both, "linux/arm64": both, COREML_PLATFORM: {"CoreML"}}

    # Each class tried the TFLite files beside the ONNX ones, and never a Core ML package.
    machines = hardware(kube, nodes)
    classes = {h["hardwareClass"]: h["platform"] for h in machines.values()}
    is_measured(mixed, set(classes))
    tried = trial_results(release, kube, mixed)
    for v in status["variants"]:
        here = {c["name"]: c.get("format", "ONNX") for c in status["candidates"] if c["platform"] == v["platform"]}
        assert v["platform"] == classes[v["hardwareClass"]]
        assert set(tried[v["measuredOn"]]) <= set(here), (tried, here)
        assert {here[name] for name in tried[v["measuredOn"]]} == both, (tried, here)
    apple = {c["digest"]: c["name"] for c in status["candidates"] if c["platform"] == COREML_PLATFORM}
    assert apple
    for node in nodes:
        running = mixed.on_nodes()[node]["running"]
        assert running["digest"] not in apple, node
        assert f"linux/{stored.entries[running['digest']]['platform']['architecture']}" == machines[node]["platform"]

    # The condition speaks of what nodes can get, and says of Core ML that none does; so does the report of its check.
    said = mixed.says("Compressed")["message"]
    assert not any(name in said.partition("; and ")[0] for name in apple.values()), said
    assert f"; and {len(apple)} of CoreML for {COREML_PLATFORM}, which no node gets" in said, said
    rows = [row for row in stored.report(monkeypatch).conversions if row.format == "CoreML"]
    assert {row.name for row in rows if row.digest is not None} == set(apple.values())
    assert all("not run" in row.ran_with for row in rows), rows


def test_core_ml_alone_is_refused_before_a_job(kube, namespace, sources, nodes):
    model = a_model(kube, namespace, sources, "apple", formats=["CoreML"])
    model.apply()
    try:
        stalled = model.until("Stalled", seconds=30)
        assert stalled["reason"] == "NotSupported", stalled
        assert "no node has a runtime for CoreML" in stalled["message"], stalled
        assert model.jobs() == []
    finally:
        model.delete()

"""One cluster, one release of the chart for the whole session; stories that are told on it.

    make e2e                                     the test bed of this machine (root, Go), which stays up
    KUBECONFIG=… EDGEMODEL_E2E_VALUES=values.yaml python -m pytest tests/e2e
                                                 your own cluster (kind, K3s), with images that its nodes can pull
    EDGEMODEL_E2E_PATIENCE=4 make e2e            on a machine that has other work: everything may take four times as long

The files share the release and, where their docstring says so, the model that `digits_model` rolled out. They run in the
order of `ORDER`: test_chart, which installs and uninstalls by itself, is the last one.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from .digits import Digits
from .dump import dump
from .kube import PATIENCE, CommandError, Kube, wait
from .model import Model, steps
from .place import Bed, find
from .prometheus import Prometheus
from .release import NAMESPACE, Release, image_values, merged

ORDER = (
    "test_rollout", "test_load", "test_tflite", "test_bad_on_one", "test_cut_off", "test_killed", "test_job_ends",
    "test_sources", "test_delete", "test_metrics", "test_autonomy", "test_images", "test_chart",
)  # fmt: skip
#: All nodes with an agent; and those that are not emulated, for stories that need no third node to be told quickly.
ALL = {"matchLabels": {"edgemodel.dev/agent": "true"}}
NATIVE = {**ALL, "matchExpressions": [{"key": "edgemodel.dev/testbed-arch", "operator": "NotIn", "values": ["arm64"]}]}
#: Of a test: the first one also waits for the installation.
TIMEOUT = 420


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    ours = [item for item in items if here in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.cluster)
        item.add_marker(pytest.mark.xdist_group("cluster"))
        given = item.get_closest_marker("timeout")
        item.add_marker(pytest.mark.timeout((given.args[0] if given else TIMEOUT) * PATIENCE), append=False)
    # Of files, not of tests; other folders' stay where they are, before ours.
    ours.sort(key=lambda item: ORDER.index(item.path.stem) if item.path.stem in ORDER else len(ORDER) - 1.5)
    items[:] = [item for item in items if item not in ours] + ours


def pytest_collection_finish(session: pytest.Session) -> None:
    """tests/cluster has operators of its own: the one that a broken-off session left behind would serve its models too."""
    together = any(Path(__file__).parents[1] / "cluster" in item.path.parents for item in session.items)
    if together and not session.config.option.collectonly:
        kube, _ = find()
        Release(kube, {}).uninstall()


_seen: dict[str, Kube] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A failure tells what the cluster looks like at that moment."""
    report = yield
    if report.failed and Path(__file__).parent in item.path.parents and "kube" in _seen:
        with contextlib.suppress(Exception):  # the failure itself is what must be told
            report.sections.append(("the cluster", dump(_seen["kube"], NAMESPACE)))
    return report


# --- the cluster


@dataclass(frozen=True)
class Place:
    """The cluster under test; `bed` is None on the user's own."""

    kube: Kube
    bed: Bed | None


@pytest.fixture(scope="session")
def place() -> Place:
    found = Place(*find())
    _seen["kube"] = found.kube
    return found


@pytest.fixture(scope="session")
def kube(place: Place) -> Kube:
    return place.kube


@pytest.fixture(scope="session")
def bed(place: Place) -> Bed:
    """For what only the test bed can do."""
    if place.bed is None:
        pytest.skip(
            "needs the test bed: on a cluster of your own nobody can pull cables or reach this machine from pods"
        )
    return place.bed


@pytest.fixture(scope="session")
def prometheus(place: Place) -> Prometheus:
    """The one that scrapes it."""
    url = place.bed.prometheus if place.bed is not None else os.environ.get("EDGEMODEL_E2E_PROMETHEUS", "")
    if not url:
        pytest.skip("EDGEMODEL_E2E_PROMETHEUS is not set: the URL of the Prometheus that scrapes your cluster")
    return Prometheus(url)


# --- the release


@pytest.fixture(scope="session")
def images(place: Place) -> dict[str, str]:
    """Names that the nodes can pull, built from the checkout unless $EDGEMODEL_IMAGES has them (a JSON object).

    On the user's own cluster they are in the values.
    """
    if place.bed is None:
        return {}
    text = os.environ.get("EDGEMODEL_IMAGES") or place.bed.command("images", timeout=3600).splitlines()[-1]
    return dict(json.loads(text))


@pytest.fixture(scope="session")
def values(place: Place, images: dict[str, str]) -> dict[str, Any]:
    """Of the session's release."""
    common = {"compressor": {"job": {"cpu": "500m", "memory": "1Gi", "disk": "1Gi"}}}
    if place.bed is None:
        path = os.environ.get("EDGEMODEL_E2E_VALUES", "")
        if not path:
            pytest.fail("EDGEMODEL_E2E_VALUES is not set: name a file with values of the chart (images, registry)")
        return merged(common, yaml.safe_load(Path(path).read_text()) or {})
    return merged(common, bed_values(place.bed, images))


def bed_values(bed: Bed, images: dict[str, str]) -> dict[str, Any]:
    """The bed's third node runs arm64 pods, and must get images of arm64 alone."""
    label = bed.settings.ARCH_LABEL
    arm64 = {
        "name": "arm64",
        "nodeSelector": {label: "arm64"},
        "image": image_values(images["agent-arm64"]),
    }
    return {
        # So that the story of a node that is cut off is short; agents report every 20 s.
        "operator": {
            "image": image_values(images["operator"]),
            "offlineAfter": "45s",
            "nodeSelector": {"kubernetes.io/hostname": "edge-1"},  # stories cut edge-2 off, or reboot it
        },
        "compressor": {"image": image_values(images["compressor"])},
        "agent": {
            "image": image_values(images["agent"]),
            "pools": [arm64],
            "standby": {"enabled": True, "manifestDir": bed.settings.STATIC_PODS},
        },
        # Not on a node: stories cut nodes off. test_chart has the chart's own.
        "registry": {"enabled": False},
        "output": f"oci://{bed.registry}/e2e",
        "plainHttpRegistries": [bed.registry],
    }


@pytest.fixture(scope="session")
def release(place: Place, values: dict[str, Any]) -> Iterator[Release]:
    """Installed before the first test that asks for it, uninstalled after the last one."""
    found = Release(place.kube, values)
    found.install()
    yield found
    if not os.environ.get("EDGEMODEL_E2E_KEEP"):
        found.uninstall()


@pytest.fixture(scope="session")
def nodes(release: Release) -> list[str]:
    """Names of the EdgeNodes, sorted, once all their agents have reported."""

    def reported() -> list[str]:
        found = release.kube.items("edgenodes", "-l", "edgemodel.dev/agent=true")
        return sorted(n["metadata"]["name"] for n in found if n.get("status", {}).get("lastReportTime"))

    count = len(release.kube.items("nodes", "-l", "edgemodel.dev/agent=true,edgemodel.dev/testbed-simulated!=true"))
    if count < 3:
        pytest.skip(f"needs three nodes with the label edgemodel.dev/agent=true, there are {count}")
    return wait(lambda: found if len(found := reported()) >= count else None, "all agents' first reports", 120)


@pytest.fixture(scope="session")
def native_nodes(release: Release, nodes: list[str]) -> list[str]:
    """Those that are not emulated."""
    found = release.kube.items("nodes", "-l", "edgemodel.dev/testbed-arch=arm64")
    return [n for n in nodes if n not in {f["metadata"]["name"] for f in found}]


# --- registry and sources


class Registry:
    """Where artifacts go. `inside`: its name in URIs; `outside()`: how it is reached from here."""

    def __init__(self, kube: Kube, inside: str, service: str) -> None:
        self.kube, self.inside, self.service = kube, inside, service

    @contextlib.contextmanager
    def outside(self) -> Iterator[str]:
        if not self.service:
            yield self.inside
            return
        with self.kube.port_forward(NAMESPACE, f"service/{self.service}", 5000) as address:
            yield address


@pytest.fixture(scope="session")
def registry(release: Release) -> Registry:
    if release.values.get("registry", {}).get("enabled", True):
        service = "edgemodel-registry"
        return Registry(release.kube, f"{service}.{NAMESPACE}.svc:5000", service)
    host = str(release.values["output"]).removeprefix("oci://").partition("/")[0]
    return Registry(release.kube, host, "")


@pytest.fixture(scope="session")
def digits() -> Digits:
    return Digits()


@pytest.fixture(scope="session")
def sources(digits: Digits, registry: Registry) -> dict[str, Any]:
    """The digits in the registry: `source` and `data` of a spec."""
    with registry.outside() as host:
        pushed = digits.push(host, "sources/digits")
    source, validation = (
        {"uri": f"oci://{registry.inside}/{pushed[tag]['path']}", "sha256": pushed[tag]["sha256"]}
        for tag in ("model", "validation")
    )
    return {"source": source, "data": {"validation": {**validation, "labels": "digit", "metric": "Top1"}}}


# --- namespaces and models


@contextlib.contextmanager
def a_namespace(kube: Kube, name: str) -> Iterator[str]:
    """With the strictest Pod Security; gone at the end, with all EdgeModels in it."""
    drop_namespace(kube, name)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    try:
        yield name
    finally:
        drop_namespace(kube, name)


def drop_namespace(kube: Kube, name: str) -> None:
    """Delete it and wait."""
    kube.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait", "--timeout=90s")


@pytest.fixture(scope="module")
def namespace(request: pytest.FixtureRequest, release: Release) -> Iterator[str]:
    """A file's own."""
    name = f"e2e-{Path(str(request.node.path)).stem.removeprefix('test_').replace('_', '-')}"
    with a_namespace(release.kube, name) as found:
        yield found


def spec_of(sources: dict[str, Any], selector: dict[str, Any], **changed: Any) -> dict[str, Any]:
    """A spec for the digits, in two waves: one node, all nodes."""
    return {
        **sources,
        "compression": steps(60),
        "nodePool": {"selector": selector},
        # An emulated CPU takes its time to be measured.
        "healthCheck": {"timeout": f"{180 * PATIENCE:.0f}s"},
        "rollout": {"waves": [{"nodes": 1, "soak": "2s"}, {"nodes": "100%"}], "maxUnavailable": 1, "maxFailures": 0},
        **changed,
    }


@pytest.fixture
def model(kube: Kube, namespace: str, sources: dict[str, Any], native_nodes: list[str]) -> Iterator[Model]:
    """One for `native_nodes` that is not applied yet; deleted at the end."""
    found = Model(kube, namespace, "m", spec_of(sources, NATIVE))
    yield found
    with contextlib.suppress(CommandError):
        found.delete()


@pytest.fixture(scope="session")
def digits_model(release: Release, sources: dict[str, Any], nodes: list[str]) -> Iterator[Model]:
    """The one that several files have on all nodes, at the port 9800: `rolled_out` sees to it that it is there."""
    with a_namespace(release.kube, "e2e-digits") as name:
        yield Model(release.kube, name, "digits", spec_of(sources, ALL, serving={"port": 9800}))


@pytest.fixture(scope="session")
def native_model(release: Release, sources: dict[str, Any], native_nodes: list[str]) -> Iterator[Model]:
    """The same for `native_nodes`, at the port 9801: `rolled_out_natively`."""
    with a_namespace(release.kube, "e2e-native") as name:
        yield Model(release.kube, name, "native", spec_of(sources, NATIVE, serving={"port": 9801}))


def is_out(model: Model, nodes: list[str]) -> Model:
    """The model, Ready on all these nodes with the last revision that was good."""
    if model.is_there() and model.spec == model.good and model.says("Stalled"):
        model.delete()  # what an earlier test left for lost: from the beginning
    model.apply(**model.good)
    model.ready(300)

    def everywhere() -> bool:
        return model.running() == dict.fromkeys(nodes, model.status().get("revision"))

    wait(everywhere, lambda: f"{model.running()}, {model.told()}", 120)
    model.good = model.spec
    return model


@pytest.fixture
def rolled_out(digits_model: Model, nodes: list[str]) -> Model:
    """`digits_model`, Ready on all nodes."""
    return is_out(digits_model, nodes)


@pytest.fixture
def rolled_out_natively(native_model: Model, native_nodes: list[str]) -> Model:
    """`native_model`, Ready on all nodes that are not emulated."""
    return is_out(native_model, native_nodes)

"""What the chart refuses, and in which words; its documentation."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import yaml

from .conftest import CHART, ROOT

REFUSED = {
    "a name that is misspelt": ({"agent": {"nodeselector": {"a": "b"}}}, "'/agent'", "'nodeselector' not allowed"),
    "a part that is not there": ({"server": {}}, "additional properties 'server' not allowed"),
    "a pool's unknown name": (
        {"agent": {"pools": [{"name": "x", "nodeSelector": {"a": "b"}, "limits": {}}]}}, "'/agent/pools/0'", "'limits'",
    ),
    "a pool without nodes": ({"agent": {"pools": [{"name": "x"}]}}, "missing property 'nodeSelector'"),
    "a pool of all nodes": ({"agent": {"pools": [{"name": "x", "nodeSelector": {}}]}}, "minProperties"),
    "a pool named default": ({"agent": {"pools": [{"name": "default", "nodeSelector": {"a": "b"}}]}}, "'not' failed"),
    "two pools of one name": (
        {"agent": {"pools": [{"name": "x", "nodeSelector": {"a": "b"}}, {"name": "x", "nodeSelector": {"a": "c"}}]}},
        "two pools are named x",
    ),
    "a pull policy": ({"operator": {"image": {"pullPolicy": "Sometimes"}}}, "'Always', 'IfNotPresent', 'Never'"),
    "a digest": ({"agent": {"image": {"digest": "latest"}}}, "'/agent/image/digest'"),
    "a port": ({"operator": {"metricsPort": 70000}}, "'/operator/metricsPort'", "maximum"),
    "a port twice": ({"operator": {"metricsPort": 8080}}, "both 8080: give two ports"),
    "a namespace": ({"operator": {"namespaces": ["Models"]}}, "'/operator/namespaces/0'"),
    "a store in no folder": ({"agent": {"store": "/"}}, "'/agent/store'"),
    "text for yes": ({"registry": {"enabled": "yes"}}, "'/registry/enabled'", "want boolean"),
    "a duration": ({"compressor": {"job": {"deadline": "2 hours"}}}, "is no duration: write it as 90s, 30m or 1h30m"),
    "a quantity": ({"compressor": {"job": {"memory": "2GB"}}}, "compressor.job.memory=2GB is no quantity", "10Gi"),
    "cores": ({"compressor": {"job": {"cpu": "two"}}}, "is no number of cores: write it as 2 or 500m"),
    "no place for artifacts": ({"registry": {"enabled": False}}, "set output=oci://host/repository"),
    "two places": ({"output": "oci://a.example.com/b"}, "set registry.enabled=false with it"),
    "a place with a slash": ({"registry": {"enabled": False}, "output": "oci://a.example.com/b/"}, "is no place for"),
    "a place that is a URL": ({"registry": {"enabled": False}, "output": "https://a.example.com/b"}, "is no place for"),
    "a Prometheus": ({"monitoring": {"prometheusUrl": "prometheus:9090"}}, "is no URL: write it as http://"),
    "an upgrade that could not": ({"agent": {"updateStrategy": {"maxSurge": 0}}}, "no agent could ever be replaced"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_bad_values_are_refused_with_what_to_change(refuse, case):
    values, *said = case
    message = refuse(**values)
    assert [text for text in said if text not in message] == [], message
    assert "nil pointer" not in message


def test_the_schema_knows_every_value():
    """And so does values.yaml: a default for each one that the schema names."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(schema: dict, values: dict, path: str) -> None:
        assert schema.get("additionalProperties") is False, path
        assert set(schema["properties"]) - {"global"} == set(values), path
        for name, value in values.items():
            inner = schema["properties"][name]
            if isinstance(value, dict) and "properties" in inner and name != "resources":
                compare(inner, value, f"{path}.{name}")

    compare(schema, values, "")


def test_readme_and_crds_are_in_step():
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "chart.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_notes_tell_the_next_steps(helm, tmp_path):
    """Helm prints them with a cluster only, so here they are a template's."""
    chart = shutil.copytree(CHART, tmp_path / "edgemodel")
    (chart / "templates" / "NOTES.txt").rename(chart / "NOTES.txt")
    (chart / "templates" / "notes.yaml").write_text('notes: {{ tpl (.Files.Get "NOTES.txt") . | toJson }}')

    def notes(**values):
        done = helm("template", "edgemodel", chart, "-n", "edgemodel-system", "--kube-version", "1.34.0",
                    "-s", "templates/notes.yaml", values=values)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return yaml.safe_load(done.stdout)["notes"]

    found = notes()
    assert "kubectl label node NODE edgemodel.dev/agent=true" in found
    assert "--node-label edgemodel.dev/agent=true" in found
    assert "networkPolicies.jobs.namespaces" in found
    assert "keeps the CRDs, and so all EdgeModels; the registry's volume too" in found
    assert "deletes the CRDs" in notes(crds={"keep": False})
    assert "lost with the registry's pod" in notes(registry={"persistence": {"enabled": False}})
    assert "networkPolicies.jobs.namespaces" not in notes(operator={"namespaces": ["models"]})

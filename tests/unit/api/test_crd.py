"""The generated CRDs: structural, complete, and in step with the types."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from edgemodel_api import crd
from edgemodel_api.base import ApiModel, Rule
from edgemodel_api.edgemodel import Budget, EdgeModel
from edgemodel_api.edgemodel_status import EdgeModelStatus, HistoryEntry, RevisionResult, RolloutStatus, VariantStatus
from edgemodel_api.edgenode import (
    ArtifactTarget,
    AssignedModel,
    AssignedTrial,
    EdgeNode,
    EdgeNodeSpec,
    EdgeNodeStatus,
    Measured,
    ModelStatus,
    RunningModel,
)
from edgemodel_api.formats import Format
from edgemodel_api.hardware import Hardware, HardwareClass
from edgemodel_api.meta import Condition, ObjectMeta

ROOT = Path(__file__).resolve().parents[3]
KINDS = [pytest.param(kind, id=kind.plural) for kind in crd.KINDS]


def nodes(schema, path=""):
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key, suffix in (("items", "[]"), ("additionalProperties", ".*")):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], path + suffix)


@pytest.mark.parametrize("kind", KINDS)
def test_schema_is_structural(kind, crd_schema):
    for path, schema in nodes(crd_schema(kind.model.__name__)):
        assert not schema.keys() & {"$ref", "anyOf", "oneOf", "allOf", "not", "const", "title", "$defs", "nullable"}, (
            path
        )
        assert ("type" in schema) != schema.get("x-kubernetes-int-or-string", False), path
        assert schema.get("additionalProperties") is not False, path
        if schema.get("type") == "array":
            assert schema["x-kubernetes-list-type"] in ("atomic", "set", "map"), path
            for key in schema.get("x-kubernetes-list-map-keys", ()):
                assert key in schema["items"]["required"], path


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_rule_looks_at_is_bounded(kind, crd_schema):
    """The API server estimates a rule's cost from maxLength and maxItems on the way to it."""
    for path, schema in nodes(crd_schema(kind.model.__name__)):
        if "x-kubernetes-validations" not in schema:
            continue
        for below, child in nodes(schema):
            if child.get("type") == "array":
                assert "maxItems" in child, path + below
            bounded = "maxLength" in child or "enum" in child or "{64}" in child.get("pattern", "")
            assert child.get("type") != "string" or bounded, path + below


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_is_described(kind, crd_schema):
    missing = [p for p, s in nodes(crd_schema(kind.model.__name__)) if s.get("properties") and not s.get("description")]
    assert missing == []


@pytest.mark.parametrize("kind", KINDS)
def test_printer_columns_lead_to_fields(kind, crd_schema):
    known = {path for path, _ in nodes(crd_schema(kind.model.__name__))} | {".metadata.creationTimestamp"}
    for column in kind.columns:
        path = column.path.replace('[?(@.type=="Ready")]', "[]")
        assert path in known, column.name


def test_names_and_scopes():
    built = {c["spec"]["names"]["kind"]: c["spec"] for c in map(crd.build, crd.KINDS)}
    assert built["EdgeModel"]["scope"] == "Namespaced"
    assert built["EdgeModel"]["names"]["shortNames"] == ["em"]
    assert built["EdgeNode"]["scope"] == "Cluster"
    assert built["EdgeNode"]["names"]["shortNames"] == ["en"]
    assert all(spec["versions"][0]["subresources"] == {"status": {}} for spec in built.values())


def test_a_status_that_was_written_has_no_defaults(crd_schema):
    for kind in ("EdgeModel", "EdgeNode"):
        found = [p for p, s in nodes(crd_schema(kind)["properties"]["status"]) if p and "default" in s]
        assert found == [], kind


def test_nobody_takes_a_new_object_for_one_that_was_looked_at(crd_schema):
    """kstatus calls an object without observedGeneration Current (tests/cluster/test_kstatus.py asks its own library)."""
    assert crd_schema("EdgeModel")["properties"]["status"]["default"] == {"observedGeneration": -1}
    assert "default" not in crd_schema("EdgeNode")["properties"]["status"], "the agent's report is its status"


def test_every_field_of_a_spec_is_explained(crd_schema):
    """`kubectl explain edgemodel.spec.rollout` is the reference that people have at hand."""
    spec = crd_schema("EdgeModel")["properties"]["spec"]
    assert [p for p, s in nodes(spec) if not p.endswith(("[]", ".*")) and not s.get("description")] == []


def test_files_are_what_the_types_say(capsys):
    assert crd.main(["--out", str(ROOT / "crds"), "--check"]) == 0, capsys.readouterr().err
    for kind in crd.KINDS:
        assert yaml.safe_load((ROOT / "crds" / f"{kind.plural}.yaml").read_text()) == crd.build(kind)


def test_drift_is_found_and_mended(tmp_path, capsys):
    out = tmp_path / "new" / "crds"
    assert crd.main(["--out", str(out), "--check"]) == 1
    assert not out.exists(), "--check writes nothing"
    assert crd.main(["--out", str(out)]) == 0
    assert crd.main(["--out", str(out), "--check"]) == 0
    (out / "edgenodes.yaml").write_text("changed")
    assert crd.main(["--out", str(out), "--check"]) == 1
    assert "edgenodes.yaml: not what the API types say; run `make manifests`" in capsys.readouterr().err


def test_an_inexpressible_type_is_refused_with_its_path():
    class Inner(ApiModel):
        """Has a union."""

        either: list[str] | str

    class Outer(ApiModel):
        """Holds it."""

        inner: Inner

    with pytest.raises(TypeError, match=r"Outer\.inner\.either: no structural schema for a union"):
        crd.structural_schema(Outer)


def test_rules_reach_the_schema():
    class Ruled(ApiModel):
        """Has a rule."""

        a: int | None = None
        rules = (Rule("has(self.a)", "give a", lambda s: s.a is not None),)

    assert crd.structural_schema(Ruled)["x-kubernetes-validations"] == [{"message": "give a", "rule": "has(self.a)"}]


def test_what_the_operator_and_the_agent_write_is_accepted(server_verdict):
    at = datetime(2026, 1, 1, 12, 0, 0, 5, tzinfo=UTC)
    hardware = Hardware(platform="linux/amd64", hardware_class=HardwareClass.AMD64_VNNI, features=("avx2",))
    target = ArtifactTarget(revision="r", reference="oci://host/m", digest="sha256:0", variant="int8")
    node = EdgeNode(
        metadata=ObjectMeta(name="n1"),
        spec=EdgeNodeSpec(
            models=(AssignedModel(namespace="a", name="m", target=target, budget=Budget(max_size="5Mi")),),
            trials=(AssignedTrial(namespace="a", name="m", revision="r", candidates=(target,)),),
        ),
        status=EdgeNodeStatus(
            hardware=hardware,
            runtimes={"onnxruntime": "1"},
            last_report_time=at,
            models=(
                ModelStatus(
                    namespace="a",
                    name="m",
                    revision="r",
                    changed_at=at,
                    measured=Measured(peak_memory_bytes=2**33, golden_error="0.01"),
                    running=RunningModel(revision="r", variant="int8", digest="sha256:0", since=at),
                ),
            ),
        ),
    )
    assert server_verdict(node.to_json()) == []
    condition = Condition(type="Ready", status="True", reason="RolledOut", last_transition_time=at)
    variant = VariantStatus(
        hardware_class=HardwareClass.AMD64_VNNI,
        platform="linux/amd64",
        name="int8",
        digest="sha256:0",
        size_bytes=2**40,
        format=Format.TFLITE,
    )
    entry = HistoryEntry(revision="r", result=RevisionResult.ROLLED_OUT, finished_at=at, variants=(variant,))
    model = EdgeModel.model_validate(
        {
            "apiVersion": "edgemodel.dev/v1alpha1",
            "kind": "EdgeModel",
            "metadata": {"name": "m"},
            "spec": {"source": {"uri": "file:m.onnx"}},
            "status": EdgeModelStatus(
                conditions=(condition,),
                variants=(variant,),
                rollout=RolloutStatus(revision="r", started_at=at),
                history=(entry,),
            ),
        }
    )
    assert server_verdict(model.to_json()) == []
    stored = model.to_json()
    stored["status"]["nodes"]["desired"] = "three"
    assert server_verdict(stored) != []

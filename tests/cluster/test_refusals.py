"""Bad manifests: the API server itself refuses them, and the command line says the like of the same ones."""

from __future__ import annotations

import pytest
import yaml

from edgemodel_api import manifest
from edgemodel_api.errors import InputError

SHA = "a" * 64
REMOTE = f"source: {{uri: 'https://example.com/m.onnx', sha256: {SHA}}}"
#: Fields of a spec (beside a good source) → the field, what the API server says, what the command line says.
BAD = {
    "no source": ("source: ~", "spec.source", "Required value", "required, but missing"),
    "source without uri": ("source: {}", "spec.source.uri", "Required value", "required, but missing"),
    "uri that is a path": ("source: {uri: /data/m.onnx}", "spec.source.uri", "must be a URI that starts with https:", "is not a URI that starts with https:"),
    "remote without digest": ("source: {uri: 'https://example.com/m.onnx'}", "spec.source", "add the hex digest of the file (sha256sum FILE)", "add the hex digest of the file (sha256sum FILE)"),
    "digest with prefix": (f"source: {{uri: 'https://example.com/m.onnx', sha256: 'sha256:{SHA}'}}", "spec.source.sha256", "must be a sha256: 64 hex digits in lower case", "is not a sha256: 64 hex digits in lower case"),
    "misspelled field": ("rolout: {}", "spec.rolout", "unknown field", "did you mean rollout?"),
    "snake case": ("node_pool: {}", "spec.node_pool", "unknown field", "did you mean nodePool?"),
    "percent as number": ("compression: {budget: {maxQualityDrop: 0.5}}", "spec.compression.budget.maxQualityDrop", "must be of type string", 'must be a percentage from 0% to 100%, such as "5%"'),
    "percent without sign": ("compression: {budget: {maxQualityDrop: '1'}}", "spec.compression.budget.maxQualityDrop", 'must be a percentage from 0% to 100%, such as "5%"', "is not a percentage from 0% to 100%"),
    "quantity with a space": ("compression: {budget: {maxSize: 20 MB}}", "spec.compression.budget.maxSize", "must be a quantity, such as 20Mi", "is not a quantity, such as 20Mi"),
    "negative quantity": ("compression: {budget: {maxMemory: -5}}", "spec.compression.budget.maxMemory", "greater than or equal to 0", "is not a quantity"),
    "duration without unit": ("compression: {budget: {maxLatency: '50'}}", "spec.compression.budget.maxLatency", "must be a duration, such as 90s", "is not a duration, such as 90s"),
    "unknown objective": ("compression: {objective: Best}", "spec.compression.objective", 'supported values: "Smallest", "Fastest"', "use one of Smallest, Fastest"),
    "two steps in one": ("compression: {steps: [{prune: {sparsity: 50%}, quantize: {}}]}", "spec.compression.steps[0]", "each step has exactly one of distill, prune, quantize", "each step has exactly one of distill, prune, quantize"),
    "empty step": ("compression: {steps: [{}]}", "spec.compression.steps[0]", "each step has exactly one of", "each step has exactly one of"),
    "too many steps": ("compression: {steps: [" + "{quantize: {}}, " * 17 + "]}", "spec.compression.steps", "must have at most 16 items", "at most 16 are allowed"),
    "prune without sparsity": ("compression: {steps: [{prune: {}}]}", "spec.compression.steps[0].prune", "prune takes either sparsity or pattern", "prune takes either sparsity or pattern"),
    "include with scope Global": ("compression: {steps: [{quantize: {include: {ops: [Conv]}}}]}", "spec.compression.steps[0].quantize", "include goes with scope: Local", "include goes with scope: Local"),
    "dynamic int4": ("compression: {steps: [{quantize: {precision: Int4, activations: Dynamic}}]}", "spec.compression.steps[0].quantize", "activations: Dynamic needs precision: Int8", "activations: Dynamic needs precision: Int8"),
    "student of both kinds": ("compression: {steps: [{distill: {student: {uri: 'file:s.onnx', width: 50%}}}]}", "spec.compression.steps[0].distill.student", "student takes either uri, or some of width, depth and rank", "student takes either uri, or some of width, depth and rank"),
    "temperature in words": ("compression: {steps: [{distill: {temperature: hot, student: {width: 50%}}}]}", "spec.compression.steps[0].distill.temperature", "must be a decimal number in quotes", "is not a decimal number in quotes"),
    "format twice": ("formats: [ONNX, ONNX]", "spec.formats", "Duplicate value", "keep one"),
    "no formats": ("formats: []", "spec.formats", "should have at least 1 items", "at least 1 must be given"),
    "no waves": ("rollout: {waves: []}", "spec.rollout.waves", "should have at least 1 items", "at least 1 must be given"),
    "wave of zero nodes": ("rollout: {waves: [{nodes: 0}]}", "spec.rollout.waves[0].nodes", "greater than or equal to 1", "is not a whole number from 1"),
    "wave in words": ("rollout: {waves: [{nodes: all}]}", "spec.rollout.waves[0].nodes", "must be a percentage above 0%", "is not a whole number from 1"),
    "soak in words": ("rollout: {waves: [{nodes: 1, soak: 10 minutes}]}", "spec.rollout.waves[0].soak", "must be a duration, such as 90s", "is not a duration, such as 90s"),
    "nothing may be unavailable": ("rollout: {maxUnavailable: 0}", "spec.rollout.maxUnavailable", "greater than or equal to 1", "is not a whole number from 1"),
    "failures over all": ("rollout: {maxFailures: 101%}", "spec.rollout.maxFailures", "must be a percentage from 0% to 100%", "or a percentage from 0% to 100%"),
    "approval by nobody": ("rollout: {approval: Never}", "spec.rollout.approval", 'supported values: "Automatic", "Manual"', "use one of Automatic, Manual"),
    "cron of four parts": ("rollout: {windows: [{schedule: 0 2 * *, duration: 1h}]}", "spec.rollout.windows[0].schedule", 'must be a cron schedule with five parts, such as "0 2 * * *"', "is not a cron schedule with five parts"),
    "time zone in words": ("rollout: {windows: [{schedule: 0 2 * * *, duration: 1h, timeZone: Central Time}]}", "spec.rollout.windows[0].timeZone", "must be a time zone, such as Europe/Berlin", "is not a time zone, such as Europe/Berlin"),
    "analysis twice": ("rollout: {analysis: [{name: a, query: q, successCondition: value < 1}, {name: a, query: r, successCondition: value < 1}]}", "spec.rollout.analysis", "Duplicate value", "more than one item with name 'a'"),
    "label with a space": ("nodePool: {selector: {matchLabels: {site: north wing}}}", "spec.nodePool.selector.matchLabels.site", "must be a label value", "is not a label value"),
    "operator without values": ("nodePool: {selector: {matchExpressions: [{key: a, operator: In}]}}", "spec.nodePool.selector.matchExpressions[0]", "In and NotIn need values", "In and NotIn need values"),
    "port too large": ("serving: {port: 70000}", "spec.serving.port", "less than or equal to 65535", "is not a whole number from 1 to 65535"),
    "deletion policy of another kind": ("deletionPolicy: Orphan", "spec.deletionPolicy", 'supported values: "Retain", "Delete"', "use one of Retain, Delete"),
    "uri too long": ("source: {uri: 'file:" + "x" * 2050 + "'}", "spec.source.uri", "may not be more than 2048", "at most 2048 are allowed"),
}  # fmt: skip


def whole(spec: str) -> str:
    fields = {**yaml.safe_load(REMOTE), **yaml.safe_load(spec)}
    fields = {key: value for key, value in fields.items() if value is not None}
    head = {"apiVersion": "edgemodel.dev/v1alpha1", "kind": "EdgeModel", "metadata": {"name": "bad"}}
    return yaml.safe_dump({**head, "spec": fields})


@pytest.mark.parametrize(("spec", "field", "said", "words"), BAD.values(), ids=BAD.keys())
def test_both_name_the_field_and_what_would_do(kubectl, spec, field, said, words):
    complaint = kubectl("apply", "--dry-run=server", "-f", "-", given=whole(spec), fails=True)
    # A key of a map is told with its map.
    assert field in complaint or field.rpartition(".")[0] in complaint, complaint
    assert said in complaint
    with pytest.raises(InputError) as refused:
        manifest.load(whole(spec))
    assert f"{field}: " in refused.value.message
    assert words in refused.value.message


def test_an_edge_node_is_checked_too(kubectl):
    node = {"apiVersion": "edgemodel.dev/v1alpha1", "kind": "EdgeNode", "metadata": {"name": "bad"}}
    for spec, field, said in (
        ({"models": [{"name": "m"}]}, "spec.models[0].namespace", "Required value"),
        ({"models": "none"}, "spec.models", "must be of type array"),
        ({"model": []}, "spec.model", "unknown field"),
    ):
        given = yaml.safe_dump({**node, "spec": spec})
        complaint = kubectl("apply", "--dry-run=server", "-f", "-", given=given, fails=True)
        assert field in complaint
        assert said in complaint


def test_the_smallest_good_manifest_is_taken(kubectl):
    assert "created (server dry run)" in kubectl("apply", "--dry-run=server", "-f", "-", given=whole("{}"))

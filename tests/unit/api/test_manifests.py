"""One table of specs, two judges: pydantic and the CRD must agree, and a bad one gets the message a user wants."""

import copy
import re

import pytest
import yaml

from edgemodel_api.edgemodel import EdgeModel
from edgemodel_api.errors import InputError
from edgemodel_api.manifest import load

SHA = "a" * 64

GOOD = {
    "only a source": "",
    "https with digest": f"source: {{uri: 'https://example.com/m.onnx', sha256: {SHA}}}",
    "oci with digest and credentials": f"source: {{uri: 'oci://registry/m:1', sha256: {SHA}, credentialsSecretRef: {{name: pull}}}}",
    "oci layout needs no digest": "source: {uri: 'oci-layout:///models/dir:v1'}",
    "pvc needs no digest": "source: {uri: 'pvc://claim/model.onnx'}",
    "pvc with dots and spaces in names": "source: {uri: 'pvc://claim.a-b/v1..2/..my model.onnx'}",
    "s3 with digest": f"source: {{uri: 's3://my.Bucket-1/a b/m?x#y.onnx', sha256: {SHA}, credentialsSecretRef: {{name: s3.keys}}}}",
    "oci by digest and port": f"source: {{uri: 'oci://registry:5000/m@sha256:{SHA}', sha256: {SHA}}}",
    "https with a query": f"source: {{uri: 'https://x:8443/m.onnx?version=1@2', sha256: {SHA}}}",
    "data with labels": "data: {calibration: {uri: file:c.npz}, validation: {uri: file:v.npz, labels: classes, metric: TopK, k: 3}}",
    "whole budget": "compression: {objective: Fastest, budget: {maxQualityDrop: '0.5%', maxSize: 20Mi, maxLatency: 50ms, maxMemory: 200Mi, maxSlowdown: '25.5%'}}",
    "quantity as a number": "compression: {budget: {maxSize: 1048576, maxMemory: '1.5Gi'}}",
    "steps of every kind": """
compression:
  steps:
  - prune: {method: MaxRelative, sparsity: '60%', granularity: Channel, exclude: {ops: [Conv]}}
  - quantize: {precision: Int4, activations: None}
  - quantize: {}
  - distill: {student: {width: '50%'}}
""",
    "no steps at all": "compression: {steps: []}",
    "local with include": "compression: {steps: [{quantize: {scope: Local, include: {nodes: [/conv1]}}}]}",
    "global with empty include": "compression: {steps: [{quantize: {include: {ops: []}}}]}",
    "distill into a file": f"compression: {{steps: [{{distill: {{method: Parameter, temperature: '2.5', student: {{uri: 'https://x/s.onnx', sha256: {SHA}}}}}}}]}}",
    "waves by count and percent": "rollout: {waves: [{nodes: 1, soak: 10m}, {nodes: '0.5%'}, {nodes: '100%', soak: 1h30m}], maxUnavailable: 2, maxFailures: 0}",
    "no failures in percent": "rollout: {maxUnavailable: '0.1%', maxFailures: '0%', approval: Manual}",
    "windows and analysis": """
rollout:
  windows: [{schedule: '0 2 * * *', duration: 3h, timeZone: Europe/Berlin}]
  analysis:
  - {name: errors, query: up, successCondition: value < 0.01, interval: 30s, failureLimit: 2}
  - {name: latency, query: up, successCondition: value < 1}
""",
    "selector": "nodePool: {selector: {matchLabels: {site: north, 'edge.dev/tier': ''}, matchExpressions: [{key: a, operator: In, values: [b]}, {key: c, operator: Exists}]}}",
    "health check": "healthCheck: {golden: {tolerance: '2%'}, maxLatencyP99: 20ms, maxMemory: 100M, timeout: 90s}",
    "files": "serving: {mode: Files}",
    "two formats": "formats: [ONNX, TFLite]",
    "nulls are absent fields": "{data: , compression: {budget: , steps: }, rollout: {waves: }, formats: }",
}

# name: (spec, path in the message, part of the message)
BAD = {
    "misspelled budget field": ("compression: {budget: {maxQualtyDrop: 1%}}", "spec.compression.budget.maxQualtyDrop", "unknown field; did you mean maxQualityDrop?"),
    "snake case": ("health_check: {}", "spec.health_check", "did you mean healthCheck?"),
    "budget in the wrong place": ("budget: {maxSize: 1Mi}", "spec.budget", "unknown field here; did you mean spec.compression.budget?"),
    "field of nowhere": ("serving: {colour: red}", "spec.serving.colour", "unknown field; allowed here: mode, port"),
    "field of a wave": ("rollout: {waves: [{nodes: 1, soaks: 1s}]}", "spec.rollout.waves[0].soaks", "did you mean soak?"),
    "no source": ("source: ", "spec.source", "required, but missing: a mapping of fields with uri"),
    "no uri": ("source: {}", "spec.source.uri", "required, but missing: a URI"),
    "no scheme": ("source: {uri: model.onnx}", "spec.source.uri", '"model.onnx" is not a URI that starts with https:, oci:'),
    "plain http": ("source: {uri: 'http://x/m.onnx'}", "spec.source.uri", "is not a URI that starts with https:"),
    "empty uri": ("source: {uri: 'file:'}", "spec.source.uri", '"file:" is not a URI'),
    "https without digest": ("source: {uri: 'https://x/m.onnx'}", "spec.source", "sha256 is required for https, oci and s3 URIs"),
    "oci data without digest": ("data: {calibration: {uri: 'oci://x/m'}}", "spec.data.calibration", "sha256 is required"),
    "student without digest": ("compression: {steps: [{distill: {student: {uri: 's3://b/m'}}}]}", "spec.compression.steps[0].distill.student", "sha256 is required"),
    "pvc without slashes": ("source: {uri: 'pvc:claim/model.onnx'}", "spec.source", "a pvc URI is written pvc://CLAIM/PATH"),
    "pvc in upper case": ("source: {uri: 'pvc://Claim/model.onnx'}", "spec.source", "a pvc URI is written pvc://CLAIM/PATH"),
    "pvc with a bad claim": ("source: {uri: 'pvc://-claim/model.onnx'}", "spec.source", "a pvc URI is written"),
    "pvc without a file": ("source: {uri: 'pvc://claim/'}", "spec.source", "a pvc URI is written"),
    "pvc that climbs": ("data: {validation: {uri: 'pvc://claim/a/../../b'}}", "spec.data.validation", "no '.' or '..'"),
    "pvc that climbs at the end": ("source: {uri: 'pvc://claim/..'}", "spec.source", "no '.' or '..'"),
    "pvc with an empty part": ("source: {uri: 'pvc://claim//etc/x'}", "spec.source", "a pvc URI is written"),
    "s3 without a key": (f"source: {{uri: 's3://bucket', sha256: {SHA}}}", "spec.source", "an s3 URI is written s3://BUCKET/KEY"),
    "s3 folder": (f"source: {{uri: 's3://bucket/models/', sha256: {SHA}}}", "spec.source", "names one object"),
    "s3 with dots": (f"source: {{uri: 's3://bucket/a/./m', sha256: {SHA}}}", "spec.source", "an s3 URI is written"),
    "https without a path": (f"source: {{uri: 'https://host', sha256: {SHA}}}", "spec.source", "an https URI is written https://HOST/PATH"),
    "https without a host": (f"source: {{uri: 'https:///m.onnx', sha256: {SHA}}}", "spec.source", "an https URI is written"),
    "password in a URI": (f"source: {{uri: 'https://me:secret@host/m', sha256: {SHA}}}", "spec.source", "a URI must hold no user name or password"),
    "key in a URI": (f"data: {{calibration: {{uri: 's3://key:secret@bucket/m', sha256: {SHA}}}}}", "spec.data.calibration", "name it in credentialsSecretRef"),
    "secret as a path": ("source: {uri: file:m.onnx, credentialsSecretRef: {name: ../x}}", "spec.source.credentialsSecretRef.name", '"../x" is not a name of lower-case letters'),
    "short digest": ("source: {uri: file:m.onnx, sha256: abc}", "spec.source.sha256", '"abc" is not a sha256: 64 hex digits'),
    "digest with prefix": (f"source: {{uri: file:m.onnx, sha256: 'sha256:{SHA}'}}", "spec.source.sha256", "is not a sha256: 64 hex digits"),
    "source as text": ("source: file:model.onnx", "spec.source", '"file:model.onnx" is not a mapping of fields'),
    "credentials as text": ("source: {uri: file:m.onnx, credentialsSecretRef: pull}", "spec.source.credentialsSecretRef", '"pull" is not a mapping'),
    "empty secret name": ("source: {uri: file:m.onnx, credentialsSecretRef: {name: ''}}", "spec.source.credentialsSecretRef.name", "must not be empty"),
    "metric of other case": ("data: {validation: {uri: file:v.npz, metric: top1}}", "spec.data.validation.metric", "use one of Top1, TopK, MeanSquaredError, F1, Cosine (did you mean Top1?)"),
    "k of zero": ("data: {validation: {uri: file:v.npz, k: 0}}", "spec.data.validation.k", "0 is not a whole number from 1 to 1000"),
    "k as text": ("data: {validation: {uri: file:v.npz, k: '5'}}", "spec.data.validation.k", '"5" is not a whole number'),
    "k as truth": ("data: {validation: {uri: file:v.npz, k: true}}", "spec.data.validation.k", "true is not a whole number"),
    "percent as number": ("compression: {budget: {maxQualityDrop: 0.5}}", "spec.compression.budget.maxQualityDrop", '0.5 is a number, but this must be a percentage from 0% to 100%, such as "5%"'),
    "percent without sign": ("compression: {budget: {maxQualityDrop: '1'}}", "spec.compression.budget.maxQualityDrop", '"1" is not a percentage'),
    "percent over 100": ("compression: {budget: {maxQualityDrop: '101%'}}", "spec.compression.budget.maxQualityDrop", '"101%" is not a percentage from 0% to 100%'),
    "negative percent": ("compression: {budget: {maxSlowdown: '-5%'}}", "spec.compression.budget.maxSlowdown", '"-5%" is not a percentage'),
    "quantity with space": ("compression: {budget: {maxSize: 20 MB}}", "spec.compression.budget.maxSize", '"20 MB" is not a quantity, such as 20Mi'),
    "quantity as float": ("compression: {budget: {maxSize: 1.5}}", "spec.compression.budget.maxSize", "1.5 is not a quantity"),
    "quantity as list": ("compression: {budget: {maxSize: [1]}}", "spec.compression.budget.maxSize", "a list is not a quantity"),
    "negative quantity": ("compression: {budget: {maxMemory: -5}}", "spec.compression.budget.maxMemory", "-5 is not a quantity"),
    "duration without unit": ("compression: {budget: {maxLatency: '50'}}", "spec.compression.budget.maxLatency", '"50" is not a duration, such as 90s'),
    "duration as number": ("compression: {budget: {maxLatency: 50}}", "spec.compression.budget.maxLatency", "50 is a number, but this must be a duration"),
    "duration in words": ("rollout: {waves: [{nodes: 1, soak: 10 minutes}]}", "spec.rollout.waves[0].soak", '"10 minutes" is not a duration'),
    "unknown objective": ("compression: {objective: Best}", "spec.compression.objective", '"Best" is not allowed; use one of Smallest, Fastest'),
    "two steps in one": ("compression: {steps: [{prune: {sparsity: 50%}, quantize: {}}]}", "spec.compression.steps[0]", "each step has exactly one of distill, prune, quantize"),
    "empty step": ("compression: {steps: [{}]}", "spec.compression.steps[0]", "each step has exactly one of"),
    "null step": ("compression: {steps: [null]}", "spec.compression.steps[0]", "null is not a mapping of fields"),
    "steps as a mapping": ("compression: {steps: {quantize: {}}}", "spec.compression.steps", "a mapping is not a list (items that start with '- ')"),
    "too many steps": ("compression: {steps: [" + "{quantize: {}}, " * 17 + "]}", "spec.compression.steps", "17 items, but at most 16 are allowed"),
    "prune without sparsity": ("compression: {steps: [{prune: {}}]}", "spec.compression.steps[0].prune", "prune takes either sparsity or pattern"),
    "prune to a pattern and a sparsity": ("compression: {steps: [{prune: {sparsity: 50%, pattern: '2:4'}}]}", "spec.compression.steps[0].prune", "prune takes either sparsity or pattern"),
    "a pattern that keeps all": ("compression: {steps: [{prune: {pattern: '4:4'}}]}", "spec.compression.steps[0].prune.pattern", '"1:2", or N:4, N:8 or N:16 with N less than M'),
    "a pattern of channels": ("compression: {steps: [{prune: {pattern: '2:4', structure: Channels}}]}", "spec.compression.steps[0].prune", "structure: Channels goes with sparsity"),
    "prune by unknown method": ("compression: {steps: [{prune: {sparsity: 50%, method: MinAbsolut}}]}", "spec.compression.steps[0].prune.method", "did you mean MinAbsolute?"),
    "include with global": ("compression: {steps: [{quantize: {include: {ops: [Conv]}}}]}", "spec.compression.steps[0].quantize", "include goes with scope: Local"),
    "int16": ("compression: {steps: [{quantize: {precision: Int16}}]}", "spec.compression.steps[0].quantize.precision", "use one of Int8, Int4, Float16"),
    "dynamic int4": ("compression: {steps: [{quantize: {precision: Int4, activations: Dynamic}}]}", "spec.compression.steps[0].quantize", "activations: Dynamic needs precision: Int8"),
    "empty op name": ("compression: {steps: [{quantize: {exclude: {ops: ['']}}}]}", "spec.compression.steps[0].quantize.exclude.ops[0]", "must not be empty"),
    "student of both kinds": ("compression: {steps: [{distill: {student: {uri: file:s.onnx, width: 50%}}}]}", "spec.compression.steps[0].distill.student", "student takes either uri, or some of width, depth and rank"),
    "temperature as number": ("compression: {steps: [{distill: {temperature: 4, student: {width: 50%}}}]}", "spec.compression.steps[0].distill.temperature", 'put it in quotes: "4"'),
    "unknown format": ("formats: [PyTorch]", "spec.formats[0]", '"PyTorch" is not allowed; use one of ONNX, TFLite, CoreML'),
    "format twice": ("formats: [ONNX, TFLite, ONNX]", "spec.formats", "more than one item 'ONNX': keep one"),
    "no formats": ("formats: []", "spec.formats", "0 items, but at least 1 must be given"),
    "no waves": ("rollout: {waves: []}", "spec.rollout.waves", "0 items, but at least 1 must be given (or leave the field out)"),
    "wave of zero nodes": ("rollout: {waves: [{nodes: 0}]}", "spec.rollout.waves[0].nodes", "0 is not a whole number from 1 to 100000, or a percentage"),
    "wave of zero percent": ("rollout: {waves: [{nodes: 0.0%}]}", "spec.rollout.waves[0].nodes", '"0.0%" is not a whole number from 1 to 100000, or a percentage above 0%'),
    "wave in words": ("rollout: {waves: [{nodes: all}]}", "spec.rollout.waves[0].nodes", '"all" is not a whole number'),
    "wave without nodes": ("rollout: {waves: [{soak: 1m}]}", "spec.rollout.waves[0].nodes", "required, but missing: a whole number from 1 to 100000, or a percentage"),
    "nothing may be unavailable": ("rollout: {maxUnavailable: 0}", "spec.rollout.maxUnavailable", "0 is not a whole number from 1"),
    "failures as float": ("rollout: {maxFailures: 0.05}", "spec.rollout.maxFailures", "0.05 is not a whole number from 0 to 100000, or a percentage"),
    "approval as truth": ("rollout: {approval: true}", "spec.rollout.approval", "true is not allowed; use one of Automatic, Manual"),
    "cron of four parts": ("rollout: {windows: [{schedule: 0 2 * *, duration: 1h}]}", "spec.rollout.windows[0].schedule", 'is not a cron schedule with five parts, such as "0 2 * * *"'),
    "time zone with space": ("rollout: {windows: [{schedule: 0 2 * * *, duration: 1h, timeZone: Central Time}]}", "spec.rollout.windows[0].timeZone", "is not a time zone, such as Europe/Berlin"),
    "analysis twice": ("rollout: {analysis: [{name: a, query: q, successCondition: c}, {name: a, query: r, successCondition: c}]}", "spec.rollout.analysis", "more than one item with name 'a'"),
    "label as truth": ("nodePool: {selector: {matchLabels: {gpu: true}}}", "spec.nodePool.selector.matchLabels.gpu", 'put it in quotes: "true"'),
    "label with space": ("nodePool: {selector: {matchLabels: {site: north wing}}}", "spec.nodePool.selector.matchLabels.site", "is not a label value"),
    "labels without matchLabels": ("nodePool: {selector: {site: north}}", "spec.nodePool.selector.site", "unknown field; allowed here: matchExpressions, matchLabels"),
    "operator without values": ("nodePool: {selector: {matchExpressions: [{key: a, operator: In}]}}", "spec.nodePool.selector.matchExpressions[0]", "In and NotIn need values"),
    "exists with values": ("nodePool: {selector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}", "spec.nodePool.selector.matchExpressions[0]", "Exists and DoesNotExist take none"),
    "unknown operator": ("nodePool: {selector: {matchExpressions: [{key: a, operator: Equals}]}}", "spec.nodePool.selector.matchExpressions[0].operator", "use one of In, NotIn, Exists, DoesNotExist"),
    "port too large": ("serving: {port: 70000}", "spec.serving.port", "70000 is not a whole number from 1 to 65535"),
    "port as text": ("serving: {port: '8080'}", "spec.serving.port", '"8080" is not a whole number'),
    "serving over grpc": ("serving: {mode: gRPC}", "spec.serving.mode", "use one of Server, Files"),
    "p99 misspelled": ("healthCheck: {maxLatencyP95: 10ms}", "spec.healthCheck.maxLatencyP95", "did you mean maxLatencyP99?"),
    "tolerance as number": ("healthCheck: {golden: {tolerance: 1}}", "spec.healthCheck.golden.tolerance", "1 is a number, but this must be a percentage"),
    "uri too long": ("source: {uri: 'file:" + "x" * 2050 + "'}", "spec.source.uri", "2055 characters, but at most 2048 are allowed"),
}  # fmt: skip


def text_of(manifest):
    return yaml.safe_dump(manifest)


@pytest.mark.parametrize("spec", GOOD.values(), ids=GOOD.keys())
def test_both_judges_accept(spec, with_spec, server_verdict):
    manifest = with_spec(spec)
    assert isinstance(load(text_of(manifest)), EdgeModel)
    assert server_verdict(manifest) == []


@pytest.mark.parametrize(("spec", "path", "message"), BAD.values(), ids=BAD.keys())
def test_both_judges_refuse_and_the_message_says_what_to_change(spec, path, message, with_spec, server_verdict):
    manifest = with_spec(spec)
    with pytest.raises(InputError) as refused:
        load(text_of(manifest), file="m.yaml")
    assert len(refused.value.message.splitlines()) == 1, "one mistake, one complaint"
    where, found = re.fullmatch(r"m\.yaml:(\d+): (.*)", refused.value.message).groups()
    assert found.startswith(f"{path}: ")
    assert message in found
    assert int(where) <= len(text_of(manifest).splitlines())
    assert server_verdict(manifest) != []


@pytest.mark.parametrize("spec", GOOD.values(), ids=GOOD.keys())
def test_server_defaults_are_pydantics(spec, with_spec, crd_schema, with_defaults):
    """What the API server stores means the same to us as what the user wrote, and writing it back changes nothing."""
    manifest = with_spec(spec)
    mine = load(text_of(manifest)).spec
    stored = with_defaults(copy.deepcopy(manifest), crd_schema("EdgeModel"))
    assert load(text_of(stored)).spec == mine
    assert load(text_of({**manifest, "spec": mine.to_json()})).spec == mine


def test_every_mistake_is_named_at_once_in_the_order_of_the_file():
    with pytest.raises(InputError) as refused:
        load(
            """apiVersion: edgemodel.dev/v1alpha1
kind: EdgeModel
metadata:
  name: Wrong_Name
spec:
  source:
    uri: m.onnx
  rollout:
    waves:
    - nodes: 1
    - nodes: 0
      soak: 5
""",
            file="m.yaml",
        )
    lines = refused.value.message.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["m.yaml:4", "metadata.name"],
        ["m.yaml:7", "spec.source.uri"],
        ["m.yaml:11", "spec.rollout.waves[1].nodes"],
        ["m.yaml:12", "spec.rollout.waves[1].soak"],
    ]


def test_hundreds_of_mistakes_do_not_fill_the_screen(with_spec):
    spec = "nodePool: {selector: {matchLabels: {" + ", ".join(f"k{i}: {i}" for i in range(60)) + "}}}"
    with pytest.raises(InputError) as refused:
        load(text_of(with_spec(spec)))
    assert len(refused.value.message.splitlines()) == 21
    assert refused.value.message.endswith("and 40 more")

"""CustomResourceDefinitions from the API types, so that the API server refuses what the command line refuses.

pydantic's JSON Schema becomes a *structural* schema (Kubernetes' subset of OpenAPI v3): no `$ref`, no `anyOf`,
no nulls, no `additionalProperties: false`; `Rule`s become CEL. Source: Kubernetes docs, "CustomResourceDefinitions:
specifying a structural schema", and KEP-2876 (CEL).

    python -m edgemodel_api.crd --out crds            writes crds/edgemodels.yaml and crds/edgenodes.yaml
    python -m edgemodel_api.crd --out crds --check    exit code 1 if they differ from what the types say
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from . import GROUP, VERSION
from .base import ApiModel
from .edgemodel import EdgeModel
from .edgenode import EdgeNode
from .words import WORDS

JsonSchema = dict[str, Any]

#: Copied as they are; everything else that JSON Schema knows is either translated below or dropped.
_KEPT = (
    "description", "type", "format", "enum", "pattern", "minLength", "maxLength", "minItems", "maxItems",
    "minProperties", "maxProperties", "minimum", "maximum",
    "x-kubernetes-int-or-string", "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type",
)  # fmt: skip


class Column(NamedTuple):
    """One column of `kubectl get`."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0


class Kind(NamedTuple):
    """What a CRD holds beside its schema."""

    model: type[ApiModel]
    plural: str
    short_name: str
    scope: str
    columns: tuple[Column, ...]
    required: tuple[str, ...] = ()
    #: What an object has of a status before anybody wrote one.
    first_status: JsonSchema | None = None


_AGE = Column("Age", ".metadata.creationTimestamp", "date")
KINDS = (
    Kind(
        EdgeModel, "edgemodels", "em", "Namespaced",
        (
            Column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
            Column("Reason", '.status.conditions[?(@.type=="Ready")].reason'),
            Column("Revision", ".status.revision"),
            Column("Variants", ".status.variantCount", "integer"),
            Column("Updated", ".status.nodes.updated", "integer"),
            Column("Desired", ".status.nodes.desired", "integer"),
            Column("Wave", ".status.rollout.progress"),
            _AGE,
            Column("Failed", ".status.nodes.failed", "integer", priority=1),
            Column("Offline", ".status.nodes.offline", "integer", priority=1),
            Column("Message", '.status.conditions[?(@.type=="Ready")].message', priority=1),
        ),
        required=("spec",),
        # So kstatus (Flux, Argo CD's tools, kpt) says InProgress from the first moment: an object without a status is
        # Current to it, and somebody who waits would go on before the operator has seen the object.
        first_status={"observedGeneration": -1},
    ),
    Kind(
        EdgeNode, "edgenodes", "en", "Cluster",
        (
            Column("Platform", ".status.hardware.platform"),
            Column("Class", ".status.hardware.hardwareClass"),
            Column("Serving", ".status.serving"),
            Column("Last report", ".status.lastReportTime", "date"),
            _AGE,
            Column("CPU", ".status.hardware.cpuModel", priority=1),
            Column("Disk free", ".status.diskFreeBytes", "integer", priority=1),
            Column("Memory free", ".status.memoryFreeBytes", "integer", priority=1),
            Column("Agent", ".status.agentVersion", priority=1),
            Column("Standby", ".status.standby", priority=1),
        ),
    ),
)  # fmt: skip


class _WithRules(GenerateJsonSchema):
    """Puts each model's `rules` beside its schema."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        found = super().model_schema(schema)
        rules = getattr(schema["cls"], "rules", ())
        if rules:
            found["x-kubernetes-validations"] = [{"message": r.message, "rule": r.cel} for r in rules]
        return found


def structural_schema(model: type[ApiModel], *, defaults: bool = True, hints: bool = False) -> JsonSchema:
    """The structural schema of one API type; `hints`: patterns are rules too, since those have messages in words.

    Raises:
        TypeError: a type that a structural schema cannot express (a union other than `int | str` or `X | None`).
    """
    schema = model.model_json_schema(by_alias=True, mode="validation", schema_generator=_WithRules)
    found = _structural(schema, schema.get("$defs", {}), model.__name__, defaults=defaults)
    if hints:
        _hint(found)
    return found


def _hint(node: JsonSchema) -> None:
    """Beside each pattern, the same as a rule: the API server then says what would do, and not only the pattern."""
    if words := WORDS.get(node.get("pattern", "")):
        matches = f"self.matches(r'{node['pattern']}')"
        rule = f"type(self) == int || {matches}" if "x-kubernetes-int-or-string" in node else matches
        node["x-kubernetes-validations"] = [{"message": f"must be {words}", "rule": rule}]
    for child in node.get("properties", {}).values():
        _hint(child)
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            _hint(node[key])


def _structural(node: JsonSchema, defs: JsonSchema, path: str, *, defaults: bool) -> JsonSchema:
    node = _resolved(node, defs)
    if "anyOf" in node:
        node = _without_union(node, defs, path)
    if "const" in node:
        node = {**node, "enum": [node["const"]]}
    out: JsonSchema = {key: node[key] for key in _KEPT if key in node}
    default = node.get("default")
    if defaults and default not in (None, "", [], {}):
        out["default"] = default
    if out.get("type") == "integer":
        out["format"] = "int64"
    if "x-kubernetes-validations" in node:
        out["x-kubernetes-validations"] = node["x-kubernetes-validations"]
    if "properties" in node:
        out["properties"] = {
            name: _structural(child, defs, f"{path}.{name}", defaults=defaults)
            for name, child in node["properties"].items()
        }
        # A default object is written as {}: the API server fills in the defaults of its fields.
        if isinstance(out.get("default"), dict):
            out["default"] = {}
        if required := node.get("required"):
            out["required"] = required
    elif isinstance(node.get("additionalProperties"), dict):
        out["additionalProperties"] = _structural(node["additionalProperties"], defs, f"{path}.*", defaults=defaults)
    if node.get("type") == "array":
        out["items"] = _structural(node["items"], defs, f"{path}[]", defaults=defaults)
        out.setdefault("x-kubernetes-list-type", "atomic")
    if "type" not in out and "x-kubernetes-int-or-string" not in out:
        raise TypeError(f"{path}: no structural schema for {node}")
    return dict(sorted(out.items(), key=lambda item: (item[0] == "properties", item[0] != "description", item[0])))


def _resolved(node: JsonSchema, defs: JsonSchema) -> JsonSchema:
    """Follow `$ref`; what stands beside it (description, default) wins."""
    while "$ref" in node:
        beside = {key: value for key, value in node.items() if key != "$ref"}
        node = {**defs[node["$ref"].removeprefix("#/$defs/")], **beside}
    return node


def _without_union(node: JsonSchema, defs: JsonSchema, path: str) -> JsonSchema:
    """`X | None` → X (absent is the only null); `int | str` → int-or-string, each constraint bound to its own kind.

    `minimum` and `pattern` may stand side by side: by OpenAPI, a number ignores one and a text the other.
    """
    options = [_resolved(option, defs) for option in node["anyOf"] if option.get("type") != "null"]
    rest = {key: value for key, value in node.items() if key != "anyOf"}
    if len(options) == 1:
        return {**options[0], **rest}
    if {option.get("type") for option in options} == {"integer", "string"}:
        merged: JsonSchema = {key: value for option in options for key, value in option.items() if key != "type"}
        return {**merged, **rest, "x-kubernetes-int-or-string": True}
    raise TypeError(f"{path}: no structural schema for a union of {options}")


def build(kind: Kind) -> JsonSchema:
    """The CustomResourceDefinition of one kind, as plain data."""
    name = kind.model.__name__
    fields = kind.model.model_fields
    properties: JsonSchema = {
        "apiVersion": {"description": "Version of the schema of this object.", "type": "string"},
        "kind": {"description": "Which type of object this is.", "type": "string"},
        "metadata": {"type": "object"},
    }
    for part in ("spec", "status"):
        part_model = fields[part].annotation
        if not (isinstance(part_model, type) and issubclass(part_model, ApiModel)):
            raise TypeError(f"{name}.{part} is not an API type")
        # Nothing is defaulted into a status that was written: a field that its writer left out is unknown, not empty.
        properties[part] = structural_schema(
            part_model, defaults=part == "spec", hints=part == "spec" and kind.model is EdgeModel
        )
    if kind.first_status is not None:
        properties["status"]["default"] = kind.first_status
    schema = {"description": _doc(kind.model), "type": "object", "properties": properties}
    if kind.required:
        schema["required"] = list(kind.required)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": kind.scope,
            "names": {
                "kind": name,
                "listKind": f"{name}List",
                "plural": kind.plural,
                "singular": name.lower(),
                "shortNames": [kind.short_name],
                "categories": ["edge"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(c) for c in kind.columns],
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


def _column(column: Column) -> JsonSchema:
    out: JsonSchema = {"name": column.name, "type": column.type, "jsonPath": column.path}
    return out | {"priority": column.priority} if column.priority else out


def _doc(model: type[ApiModel]) -> str:
    return " ".join((model.__doc__ or model.__name__).split())


class _Plain(yaml.SafeDumper):
    """Without anchors: the same list twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def render(kind: Kind) -> str:
    """The YAML file of one kind."""
    body = yaml.dump(build(kind), Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)
    return f"# Generated from api/edgemodel_api by `python -m edgemodel_api.crd`; do not edit.\n{body}"


def main(argv: list[str] | None = None) -> int:
    """Write the files, or with --check compare them; the only place of this package that touches files."""
    parser = argparse.ArgumentParser(prog="python -m edgemodel_api.crd", description="Write the CRDs.")
    parser.add_argument("--out", type=Path, default=Path("crds"), help="folder of the YAML files")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a file differs")
    options = parser.parse_args(argv)
    differing = []
    for kind in KINDS:
        path = options.out / f"{kind.plural}.yaml"
        text = render(kind)
        if options.check:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                differing.append(str(path))
            continue
        options.out.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if differing:
        print(f"{', '.join(differing)}: not what the API types say; run `make manifests`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

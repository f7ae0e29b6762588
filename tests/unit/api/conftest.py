"""The two judges of a manifest: pydantic (through `manifest.load`) and what the API server would do with the CRD."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Iterator
from typing import Any

import celpy
import jsonschema
import pytest
import yaml
from celpy.celtypes import BoolType

from edgemodel_api import crd

MINIMAL = {
    "apiVersion": "edgemodel.dev/v1alpha1",
    "kind": "EdgeModel",
    "metadata": {"name": "example"},
    "spec": {"source": {"uri": "file:model.onnx"}},
}


def manifest_of(spec: str) -> dict[str, Any]:
    """A whole manifest from YAML of some spec fields; `source` is there unless given (`source: ~` leaves it out)."""
    fields = {**MINIMAL["spec"], **(yaml.safe_load(spec) or {})}
    return {**MINIMAL, "spec": {k: v for k, v in fields.items() if v is not None or k != "source"}}


@functools.cache
def schema_of(kind: str) -> dict[str, Any]:
    built = next(crd.build(k) for k in crd.KINDS if k.model.__name__ == kind)
    return built["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """As the server reads it with strict field validation: unknown fields are errors, int-or-string is a union."""
    out = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    if "properties" in schema:
        out["properties"] = {k: closed(v) for k, v in schema["properties"].items()}
        out["additionalProperties"] = False
    elif isinstance(schema.get("additionalProperties"), dict):
        out["additionalProperties"] = closed(schema["additionalProperties"])
    elif schema.get("type") == "object":
        out["additionalProperties"] = True
    if "items" in schema:
        out["items"] = closed(schema["items"])
    if schema.get("x-kubernetes-int-or-string"):
        out["type"] = ["integer", "string"]
    return out


def defaulted(value: Any, schema: dict[str, Any]) -> Any:
    """Nulls dropped, then defaults filled in, top down, as the API server does before it validates."""
    if isinstance(value, dict):
        known = schema.get("properties", {})
        value = {k: v for k, v in value.items() if v is not None}
        for name, child in known.items():
            if name not in value and "default" in child:
                value[name] = copy.deepcopy(child["default"])
        other = schema.get("additionalProperties") or {}
        return {k: defaulted(v, known.get(k, other)) for k, v in value.items()}
    if isinstance(value, list):
        return [defaulted(item, schema.get("items", {})) for item in value]
    return value


@functools.cache
def _program(rule: str) -> celpy.Runner:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))


def broken_rules(value: Any, schema: dict[str, Any]) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", ()):
        if _program(rule["rule"]).evaluate({"self": celpy.json_to_cel(value)}) != BoolType(True):
            yield rule["message"]
    if isinstance(value, dict):
        for name, child in schema.get("properties", {}).items():
            if name in value:
                yield from broken_rules(value[name], child)
    if isinstance(value, list):
        for item in value:
            yield from broken_rules(item, schema["items"])


def duplicates(value: Any, schema: dict[str, Any]) -> Iterator[str]:
    if isinstance(value, dict):
        for name, child in schema.get("properties", {}).items():
            if name in value:
                yield from duplicates(value[name], child)
    if isinstance(value, list):
        keys = schema.get("x-kubernetes-list-map-keys")
        if schema["x-kubernetes-list-type"] != "atomic":
            ids = [json.dumps([item[k] for k in keys] if keys else item) for item in value]
            yield from (f"duplicate {i}" for i in set(ids) if ids.count(i) > 1)
        for item in value:
            yield from duplicates(item, schema["items"])


@pytest.fixture(scope="session")
def server_verdict() -> Callable[[dict[str, Any]], list[str]]:
    """What the API server would complain about: an empty list means that it accepts."""

    def verdict(manifest: dict[str, Any]) -> list[str]:
        schema = schema_of(manifest["kind"])
        full = defaulted(manifest, schema)
        validator = jsonschema.Draft202012Validator(closed(schema))
        errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(full)]
        # Rules see only objects that the schema accepts, as in the API server.
        return errors or [*duplicates(full, schema), *broken_rules(full, schema)]

    return verdict


@pytest.fixture(scope="session")
def with_spec() -> Callable[[str], dict[str, Any]]:
    return manifest_of


@pytest.fixture(scope="session")
def crd_schema() -> Callable[[str], dict[str, Any]]:
    return schema_of


@pytest.fixture(scope="session")
def with_defaults() -> Callable[[Any, dict[str, Any]], Any]:
    return defaulted

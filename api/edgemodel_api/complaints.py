"""pydantic's errors → sentences a user can act on, guided by the structural schema. Pure."""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ValidationError

from .crd import JsonSchema, structural_schema
from .edgemodel import EdgeModelSpec
from .meta import DNS_NAME_PATTERN
from .quantities import counted
from .words import WORDS
from .yaml_text import Path

_TYPES = {
    "string": "text",
    "integer": "a whole number",
    "array": "a list (items that start with '- ')",
    "object": "a mapping of fields",
}


@functools.cache
def _schema() -> JsonSchema:
    name = {"type": "string", "pattern": DNS_NAME_PATTERN, "maxLength": 253}
    texts = {"type": "object", "additionalProperties": {"type": "string"}}
    metadata = {
        "type": "object",
        "properties": {"name": name, "namespace": name, "labels": texts, "annotations": texts},
        "required": ["name"],
    }
    return {"type": "object", "properties": {"metadata": metadata, "spec": structural_schema(EdgeModelSpec)}}


def explain(error: ValidationError, value: dict[str, Any]) -> dict[Path, str]:
    """One sentence for each field that is wrong; pydantic may name the same field more than once."""
    found: dict[Path, str] = {}
    for item in error.errors(include_url=False):
        path, schema = _located(item["loc"])
        if item["type"] == "extra_forbidden":
            found[path] = _unknown(str(path[-1]), schema)
        elif item["type"] == "too_short" and len(_at(value, path)) >= schema.get("minItems", 0):
            continue  # pydantic counts only the good items; the bad ones have their own sentence
        elif item["type"] == "missing":
            found[path] = f"required, but missing{_of(schema)}"
        elif item["type"] == "value_error":
            found[path] = str(item["ctx"]["error"])
        else:
            found[path] = _mismatch(_at(value, path), schema, item["msg"])
    return found


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant: other case, snake_case, or a few letters off."""
    by_lower = {k.lower(): k for k in known}
    plain = word.replace("_", "").replace("-", "").lower()
    if plain in by_lower:
        return by_lower[plain]
    close = difflib.get_close_matches(plain, by_lower, n=1, cutoff=0.7)
    return by_lower[close[0]] if close else None


def _located(loc: tuple[int | str, ...]) -> tuple[Path, JsonSchema]:
    """The path that a user sees (pydantic appends names of union members), and its schema; of an unknown field, its parent's."""
    schema = _schema()
    path: list[str | int] = []
    for part in loc:
        if isinstance(part, int) and "items" in schema:
            schema = schema["items"]
        elif part in schema.get("properties", {}):
            schema = schema["properties"][part]
        elif "additionalProperties" in schema:
            schema = schema["additionalProperties"]
        elif "properties" in schema:
            return (*path, part), schema
        else:
            break
        path.append(part)
    return tuple(path), schema


def _unknown(name: str, parent: JsonSchema) -> str:
    allowed = sorted(parent["properties"])
    if match := nearest(name, allowed):
        return f"unknown field; did you mean {match}?"
    places = sorted(set(_places(_schema(), name)))
    if 0 < len(places) <= 2:
        return f"unknown field here; did you mean {' or '.join(places)}?"
    return f"unknown field; allowed here: {', '.join(allowed)}"


def _places(schema: JsonSchema, name: str, path: str = "") -> Iterator[str]:
    for key, child in schema.get("properties", {}).items():
        here = f"{path}.{key}".removeprefix(".")
        if key == name:
            yield here
        yield from _places(child, name, here)
    if "items" in schema:
        yield from _places(schema["items"], name, f"{path}[]")


def _of(schema: JsonSchema) -> str:
    fields = ", ".join(schema.get("required", ()))
    return f": {_expected(schema)}{f' with {fields}' if fields else ''}"


def _expected(schema: JsonSchema) -> str:
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}" if len(schema["enum"]) > 1 else str(schema["enum"][0])
    words = WORDS.get(schema.get("pattern", ""), "")
    low, high = schema.get("minimum"), schema.get("maximum")
    if schema.get("x-kubernetes-int-or-string") and high is not None:
        return f"a whole number from {low} to {high}, or {words}"
    if words:
        return words
    if low is not None:
        return f"a whole number from {low} to {high}"
    return _TYPES[schema["type"]]


def _mismatch(given: Any, schema: JsonSchema, message: str) -> str:
    """What is wrong with `given`; `message` is pydantic's own, for what is not foreseen here."""
    shown = _shown(given)
    kind = schema.get("type")
    if "enum" in schema:
        match = nearest(given, schema["enum"]) if isinstance(given, str) else None
        return f"{shown} is not allowed; use {_expected(schema)}" + (f" (did you mean {match}?)" if match else "")
    if kind == "array" and isinstance(given, list):
        low, high = schema.get("minItems"), schema.get("maxItems")
        if low is not None and len(given) < low:
            return f"{counted(len(given), 'item')}, but at least {low} must be given (or leave the field out)"
        if high is not None and len(given) > high:
            return f"{counted(len(given), 'item')}, but at most {high} are allowed"
    if kind == "object" and isinstance(given, dict) and len(given) > schema.get("maxProperties", len(given)):
        return f"{len(given)} entries, but at most {schema['maxProperties']} are allowed"
    if kind == "string" and isinstance(given, str):
        if len(given) < schema.get("minLength", 0):
            return "must not be empty"
        if len(given) > schema.get("maxLength", len(given)):
            return f"{len(given)} characters, but at most {schema['maxLength']} are allowed"
    if not any(key in schema for key in ("type", "x-kubernetes-int-or-string")):
        return message
    expected = _expected(schema)
    if kind == "string" and isinstance(given, bool | int | float):
        quoted = json.dumps(str(given).lower() if isinstance(given, bool) else str(given))
        hint = "" if "pattern" in schema and "%" in expected else f"; put it in quotes: {quoted}"
        if isinstance(given, bool):  # what was written is not known any more
            hint += ", or as it was written: YAML reads y, n, yes, no, on and off as true or false"
        return f"{shown} is {_kind(given)}, but this must be {expected}{hint}"
    return f"{shown} is not {expected}"


def _kind(given: Any) -> str:
    return "true or false" if isinstance(given, bool) else "a number"


def _shown(given: Any) -> str:
    if isinstance(given, dict):
        return "a mapping"
    if isinstance(given, list):
        return "a list"
    text = json.dumps(given, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _at(value: Any, path: Path) -> Any:
    for part in path:
        value = value[part]
    return value

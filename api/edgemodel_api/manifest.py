"""YAML text → `EdgeModel`. Every complaint names the line, the field, what was given, and what would do."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from . import API_VERSION
from .complaints import explain, nearest
from .edgemodel import EdgeModel
from .errors import InputError
from .yaml_text import Document, Path, parse

#: More complaints than this help nobody.
MAX_COMPLAINTS = 20
TOP_LEVEL = ("apiVersion", "kind", "metadata", "spec", "status")
#: Kubernetes' ObjectMeta, as far as a file may carry it.
METADATA = (
    "name", "namespace", "labels", "annotations", "finalizers", "generateName", "ownerReferences", "uid",
    "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds",
    "managedFields", "selfLink",
)  # fmt: skip


def load(content: bytes | str, *, file: str = "manifest") -> EdgeModel:
    """The one EdgeModel of a YAML file. A `status` in it is ignored, as the API server does.

    Args:
        content: what is in the file.
        file: its name, for messages only.

    Raises:
        InputError: with one line for each thing that is wrong: `file:line: spec.field: what, and what to change`.
    """
    document = _only_edgemodel(parse(content, file=file), file)
    value = _without_nulls(document.value)
    value.pop("status", None)
    complaints = _unknown_fields(value)
    # What was complained about already must not be complained about again in other words.
    for path in complaints:
        (value if len(path) == 1 else value[path[0]]).pop(path[-1])
    try:
        # Strict and from JSON, so that "8080" is no number and max_size no field: what the API server would say.
        model = EdgeModel.model_validate_json(json.dumps(value), strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        complaints |= explain(error, value)
    else:
        if not complaints:
            return model
    raise InputError(_message(complaints, document, file))


def _only_edgemodel(documents: list[Document], file: str) -> Document:
    if not documents:
        raise InputError(f"{file}: empty: expected one EdgeModel (apiVersion: {API_VERSION}, kind: EdgeModel)")
    for document in documents:
        _check_type(document, file)
    if len(documents) > 1:
        lines = ", ".join(str(d.line(("kind",))) for d in documents)
        raise InputError(
            f"{file}: {len(documents)} EdgeModels (lines {lines}): give one per file, so that it is clear which one is meant"
        )
    return documents[0]


def _check_type(document: Document, file: str) -> None:
    value = document.value
    if not isinstance(value, dict):
        raise InputError(
            f"{file}:{document.line(())}: expected a mapping with apiVersion, kind, metadata and spec, "
            f"but this document is {_shown(value)}"
        )
    kind, version = value.get("kind"), value.get("apiVersion")
    where = f"{file}:{document.line(('kind',))}"
    if kind is None:
        raise InputError(f"{file}:{document.line(())}: kind is missing: add kind: EdgeModel")
    if kind != "EdgeModel":
        hint = "; did you mean EdgeModel?" if nearest(str(kind), ["EdgeModel"]) else ""
        raise InputError(
            f"{where}: kind is {_shown(kind)}, and only an EdgeModel can be used here{hint or '; keep others in other files'}"
        )
    if version is None:
        raise InputError(f"{where}: apiVersion is missing: add apiVersion: {API_VERSION}")
    if version != API_VERSION:
        at = f"{file}:{document.line(('apiVersion',))}"
        raise InputError(f"{at}: apiVersion is {_shown(version)}, and this version knows {API_VERSION}: write that")


def _without_nulls(value: Any) -> Any:
    """`field:` with nothing behind it is an absent field, as the API server sees it; a null in a list stays an error."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _unknown_fields(value: dict[str, Any]) -> dict[Path, str]:
    """Outside the spec: there the types ignore what they do not know, as they also read what a cluster wrote."""
    found: dict[Path, str] = {}
    metadata = value.get("metadata")
    for at, keys, known in (
        ((), value, TOP_LEVEL),
        (("metadata",), metadata if isinstance(metadata, dict) else {}, METADATA),
    ):
        for key in keys:
            if key not in known:
                match = nearest(key, known)
                found[(*at, key)] = "unknown field; " + (
                    f"did you mean {match}?" if match else f"allowed here: {', '.join(known[:5])}"
                )
    return found


def _message(complaints: dict[Path, str], document: Document, file: str) -> str:
    ordered = sorted(complaints.items(), key=lambda item: (document.line(item[0]), [str(p) for p in item[0]]))
    lines = [f"{file}:{document.line(path)}: {_dotted(path)}: {text}" for path, text in ordered[:MAX_COMPLAINTS]]
    if len(ordered) > MAX_COMPLAINTS:
        lines.append(f"{file}: and {len(ordered) - MAX_COMPLAINTS} more")
    return "\n".join(lines)


def _dotted(path: Path) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, str) else f"{json.dumps(value)[:80]}"

"""`edgemodel compress model.onnx --max-quality-drop 0.5% …`: options → the manifest that means the same. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgemodel_api import API_VERSION
from edgemodel_api.complaints import explain
from edgemodel_api.edgemodel import EdgeModel
from edgemodel_api.errors import InputError
from edgemodel_api.yaml_text import dump

#: Where an option goes in the manifest: also how a complaint about a field finds its option.
FIELDS = {
    "validation": ("data", "validation", "uri"),
    "labels": ("data", "validation", "labels"),
    "metric": ("data", "validation", "metric"),
    "calibration": ("data", "calibration", "uri"),
    "objective": ("compression", "objective"),
    "max_quality_drop": ("compression", "budget", "maxQualityDrop"),
    "max_size": ("compression", "budget", "maxSize"),
    "max_latency": ("compression", "budget", "maxLatency"),
    "max_memory": ("compression", "budget", "maxMemory"),
    "max_slowdown": ("compression", "budget", "maxSlowdown"),
}
#: Options that add a step, in the order in which steps are applied.
STEPS = {"prune": ("prune", "sparsity"), "quantize": ("quantize", "precision")}


@dataclass(frozen=True)
class ModelOptions:
    """What a command line says of a model; texts as in a manifest. Absent: the manifest's default."""

    model: Path
    validation: Path | None = None
    labels: str | None = None
    metric: str | None = None
    calibration: Path | None = None
    objective: str | None = None
    max_quality_drop: str | None = None
    max_size: str | None = None
    max_latency: str | None = None
    max_memory: str | None = None
    max_slowdown: str | None = None
    prune: str | None = None
    quantize: str | None = None

    def given(self) -> tuple[str, ...]:
        """The options that were given, as they are typed."""
        return tuple(_flag(name) for name in (*FIELDS, *STEPS) if getattr(self, name) is not None)


def manifest_of(options: ModelOptions) -> dict[str, Any]:
    """The manifest, as a mapping.

    Raises:
        InputError: options that only go together are not.
    """
    if options.validation is None and (options.labels or options.metric):
        raise InputError("--labels and --metric say how --validation FILE is judged: give that file too")
    spec: dict[str, Any] = {"source": {"uri": _uri(options.model)}}
    for name, path in FIELDS.items():
        value = getattr(options, name)
        if value is not None:
            _set(spec, path, _uri(value) if isinstance(value, Path) else value)
    steps = [{step: {field: getattr(options, name)}} for name, (step, field) in STEPS.items() if getattr(options, name)]
    if steps:
        spec.setdefault("compression", {})["steps"] = steps
    return {"apiVersion": API_VERSION, "kind": "EdgeModel", "metadata": {"name": name_of(options.model)}, "spec": spec}


def edge_model(options: ModelOptions) -> EdgeModel:
    """The same, checked.

    Raises:
        InputError: one line for each option that is wrong: what it was, and what would do.
    """
    value = manifest_of(options)
    try:
        return EdgeModel.model_validate_json(json.dumps(value), strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        complaints = explain(error, value)
        raise InputError("\n".join(f"{_option(options, path)}: {text}" for path, text in complaints.items())) from None


def manifest_text(options: ModelOptions) -> str:
    """The same as YAML, for `edgemodel run -f`, kubectl and GitOps.

    Raises:
        InputError: as `manifest_of`.
    """
    return dump(manifest_of(options))


def name_of(model: Path) -> str:
    """A Kubernetes name out of a file's name.

    >>> name_of(Path("My Model_v2.onnx"))
    'my-model-v2'
    """
    return re.sub(r"[^a-z0-9]+", "-", model.stem.lower()).strip("-")[:63].strip("-") or "model"


def _uri(path: Path) -> str:
    return f"file:{str(path).replace('%', '%25')}"


def _set(value: dict[str, Any], path: tuple[str, ...], leaf: str) -> None:
    for part in path[:-1]:
        value = value.setdefault(part, {})
    value[path[-1]] = leaf


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _option(options: ModelOptions, path: tuple[str | int, ...]) -> str:
    """The option that a field came from; the field itself, if from none."""
    inside = tuple(path[1:]) if path[:1] == ("spec",) else ()
    for name, field in FIELDS.items():
        if inside[: len(field)] == field:
            return f"{_flag(name)} {getattr(options, name)}"
    for name, field in STEPS.items():
        if inside[:2] == ("compression", "steps") and inside[3:5] == field:
            return f"{_flag(name)} {getattr(options, name)}"
    return ".".join(str(part) for part in path)

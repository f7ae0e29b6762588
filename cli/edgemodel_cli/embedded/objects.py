"""The API server of the embedded mode: a folder with a file for each object's spec and status.

As in a cluster, a spec has a generation that grows when it changes, only the operator writes a model's status and a
node's spec, and only the agent writes a node's status. Every file is written by temp + rename.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from edgemodel_agent.files import read_json, write_json
from edgemodel_api.base import ApiModel
from edgemodel_api.edgemodel import EdgeModel, EdgeModelSpec
from edgemodel_api.edgemodel_status import EdgeModelStatus
from edgemodel_api.edgenode import EdgeNode, EdgeNodeSpec, EdgeNodeStatus
from edgemodel_api.errors import InputError
from edgemodel_api.meta import ObjectMeta

Model = TypeVar("Model", bound=ApiModel)
#: The name, size and time of a file as it was looked at; changes when anybody replaces it.
Stamp = tuple[str, int, int, int]


class ObjectStore:
    """EdgeModels and EdgeNodes below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _model(self, namespace: str, name: str) -> Path:
        return self.folder / "edgemodels" / namespace / name

    def _node(self, name: str) -> Path:
        return self.folder / "edgenodes" / name

    def apply_model(self, wanted: EdgeModel, now: datetime) -> EdgeModel:
        """As `kubectl apply`: the stored object, with the next generation if the spec is another one."""
        meta = wanted.metadata
        old = self.read_model(meta.namespace, meta.name)
        if old is None:
            meta = meta.replace(generation=1, creation_timestamp=now)
        else:
            grown = old.metadata.generation + (old.spec != wanted.spec)
            # Annotations that others put there stay, as with a merge patch.
            annotations = {**old.metadata.annotations, **meta.annotations}
            meta = meta.replace(
                generation=grown, annotations=annotations, creation_timestamp=old.metadata.creation_timestamp
            )
        if old is None or (old.metadata, old.spec) != (meta, wanted.spec):
            self._write_model(meta, wanted.spec)
        return wanted.replace(metadata=meta, status=old.status if old else EdgeModelStatus())

    def annotate_model(self, model: EdgeModel, annotations: dict[str, str]) -> EdgeModel:
        """Set annotations (`kubectl annotate --overwrite`)."""
        meta = model.metadata.replace(annotations={**model.metadata.annotations, **annotations})
        if meta != model.metadata:
            self._write_model(meta, model.spec)
        return model.replace(metadata=meta)

    def _write_model(self, meta: ObjectMeta, spec: EdgeModelSpec) -> None:
        path = self._model(meta.namespace, meta.name) / "spec.json"
        write_json(path, {"metadata": meta.to_json(), "spec": spec.to_json()})

    def models(self) -> tuple[EdgeModel, ...]:
        """All of them, by namespace and name."""
        paths = sorted((self.folder / "edgemodels").glob("*/*/spec.json"))
        found = (self.read_model(p.parent.parent.name, p.parent.name) for p in paths)
        return tuple(m for m in found if m is not None)

    def read_model(self, namespace: str, name: str) -> EdgeModel | None:
        """One of them; None: there is none (or its spec is from a version that wrote others)."""
        folder = self._model(namespace, name)
        document = read_json(folder / "spec.json")
        if not isinstance(document, dict):
            return None
        try:
            return EdgeModel(
                api_version="edgemodel.dev/v1alpha1",
                kind="EdgeModel",
                metadata=ObjectMeta.model_validate(document["metadata"]),
                spec=EdgeModelSpec.model_validate(document["spec"]),
                status=_parsed(EdgeModelStatus, read_json(folder / "status.json")) or EdgeModelStatus(),
            )
        except (ValidationError, KeyError):
            return None

    def write_model_status(self, model: EdgeModel, status: EdgeModelStatus) -> None:
        """Replace the status."""
        write_json(self._model(model.metadata.namespace, model.metadata.name) / "status.json", status.to_json())

    def register_node(self, name: str, labels: dict[str, str]) -> None:
        """Make a node known, or change its labels."""
        path = self._node(name) / "meta.json"
        wanted = {"name": name, "labels": labels}
        if read_json(path) != wanted:
            write_json(path, wanted)

    def node_names(self) -> tuple[str, ...]:
        """All nodes, by name."""
        return tuple(sorted(p.parent.name for p in (self.folder / "edgenodes").glob("*/meta.json")))

    def nodes(self) -> tuple[EdgeNode, ...]:
        """All nodes, by name."""
        return tuple(self.read_node(name) for name in self.node_names())

    def read_node(self, name: str) -> EdgeNode:
        """One node. What cannot be read counts as not yet written."""
        folder = self._node(name)
        meta = read_json(folder / "meta.json") or {}
        document = read_json(folder / "spec.json") or {}
        return EdgeNode(
            metadata=ObjectMeta(
                name=name, labels=meta.get("labels", {}), generation=int(document.get("generation", 0))
            ),
            spec=_parsed(EdgeNodeSpec, document.get("spec")) or EdgeNodeSpec(),
            status=_parsed(EdgeNodeStatus, read_json(folder / "status.json")) or EdgeNodeStatus(),
        )

    def write_node_spec(self, node: EdgeNode, spec: EdgeNodeSpec) -> None:
        """Replace a node's spec as the next generation, if it is another one."""
        if spec != node.spec or not (self._node(node.metadata.name) / "spec.json").exists():
            document = {"generation": node.metadata.generation + 1, "spec": spec.to_json()}
            write_json(self._node(node.metadata.name) / "spec.json", document)

    def forget_nodes(self, keep: Iterable[str]) -> tuple[str, ...]:
        """Remove the nodes that are not in `keep`; their names."""
        gone = tuple(sorted(set(self.node_names()) - set(keep)))
        for name in gone:
            shutil.rmtree(self._node(name), ignore_errors=True)
        return gone

    def stamps(self) -> frozenset[Stamp]:
        """Changes when anybody writes a node's object."""
        found = set()
        for path in (self.folder / "edgenodes").glob("*/*.json"):
            try:
                s = path.stat()
            except FileNotFoundError:
                continue
            found.add((str(path), s.st_ino, s.st_mtime_ns, s.st_size))
        return frozenset(found)


def check_single(models: Iterable[EdgeModel], wanted: EdgeModel, root: Path) -> None:
    """A workdir belongs to one EdgeModel.

    Raises:
        InputError: it belongs to another one.
    """
    for model in models:
        if model.key != wanted.key:
            raise InputError(
                f"--workdir {root} belongs to the EdgeModel {model.key}, and this is {wanted.key}: "
                "give it another folder"
            )


def _parsed(kind: type[Model], value: Any) -> Model | None:
    try:
        return kind.model_validate(value) if isinstance(value, dict) else None
    except ValidationError:
        return None

"""Where the agent's own EdgeNode comes from and its status goes to. Adapters: a directory, or nothing, here; the cluster's."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from pydantic import ValidationError

from edgemodel_api.edgenode import EdgeNodeSpec, EdgeNodeStatus

from .files import write_json
from .metrics import ApiMetrics

log = logging.getLogger(__name__)


class Desired(NamedTuple):
    """What the operator wants of this node, and the generation of that wish. `retire`: the standby shall go."""

    generation: int
    spec: EdgeNodeSpec
    retire: bool = False


class NodeObjects(Protocol):
    """The agent's window to the EdgeNode objects; every call may fail with OSError while the other side is away."""

    def register(self, labels: Mapping[str, str]) -> None:
        """Make the node known."""

    def read_desired(self) -> Desired | None:
        """The current spec; None: none was written yet, or it cannot be read (then go on with the last one)."""

    def write_status(self, status: EdgeNodeStatus) -> None:
        """Replace the status."""

    def tried(self) -> bool:
        """Whether the other side answered, or was asked in vain, once at least."""

    def close(self) -> None:
        """Nothing is written after this."""


class DirectoryObjects:
    """`<objects>/edgenodes/<node>/{meta,spec,status}.json`; every file is written by temp + rename."""

    def __init__(self, folder: Path, node: str, metrics: ApiMetrics | None = None) -> None:
        self.folder = folder / "edgenodes" / node
        self._metrics = metrics
        self.node = node
        self._complained: bytes | None = None

    def register(self, labels: Mapping[str, str]) -> None:
        """Write meta.json."""
        write_json(self.folder / "meta.json", {"name": self.node, "labels": dict(labels)})

    def read_desired(self) -> Desired | None:
        """Parse spec.json. A spec that cannot be parsed is logged once and ignored: a typo must not stop a model."""
        content = b""
        try:
            content = (self.folder / "spec.json").read_bytes()
            document = json.loads(content)
            return Desired(int(document["generation"]), EdgeNodeSpec.model_validate(document["spec"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            if content != self._complained:
                log.warning("spec.json of node %s is ignored, the last good one stays: %s", self.node, error)
                self._complained = content
            return None

    def write_status(self, status: EdgeNodeStatus) -> None:
        """Write status.json; not fsynced, as the next heartbeat replaces it within seconds."""
        write_json(self.folder / "status.json", status.to_json(), durable=False)
        if self._metrics is not None:
            self._metrics.reported(status)

    def tried(self) -> bool:
        """A folder is always there."""
        return True

    def close(self) -> None:
        """Nothing to do."""


class NoObjects:
    """A standby's: the last wish is in the store, and there is nobody to report to."""

    def register(self, labels: Mapping[str, str]) -> None:
        """Nowhere."""

    def read_desired(self) -> Desired | None:
        """Nothing new."""
        return None

    def write_status(self, status: EdgeNodeStatus) -> None:
        """To nobody."""

    def tried(self) -> bool:
        """Nobody is to be asked."""
        return True

    def close(self) -> None:
        """Nothing to do."""

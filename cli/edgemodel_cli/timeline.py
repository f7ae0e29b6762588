"""What happened on which node, and when: JSON lines in `timeline.jsonl`, appended while a rollout goes on.

The objects say how things are; this file says how they came to be, for the report's picture of the waves.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from edgemodel_api.base import StatusModel

#: `NodeChange.state` of a node that does not report; the others are `TargetState`'s.
OFFLINE = "Offline"


class NodeChange(StatusModel):
    """One node entered a state. `wave` is 0-based; -1: no wave had let the node in yet."""

    at: datetime
    node: str
    wave: int = -1
    state: str
    revision: str = ""
    variant: str = ""
    reason: str = ""
    message: str = ""


def append(path: Path, changes: Iterable[NodeChange]) -> None:
    """Add changes, a line each, in one write. A line that a killed writer left half-written is closed first.

    Raises:
        OSError: the file cannot be written.
    """
    content = "".join(change.model_dump_json(by_alias=True, exclude_defaults=True) + "\n" for change in changes)
    if not content:
        return
    with path.open("ab+") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            content = content if file.read(1) == b"\n" else "\n" + content
        file.write(content.encode())


def read(path: Path) -> tuple[NodeChange, ...]:
    """All changes in the order of the file; none when there is no file. Lines that are not whole are left out."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return ()
    return tuple(change for change in map(_parsed, lines) if change is not None)


def _parsed(line: bytes) -> NodeChange | None:
    try:
        return NodeChange.model_validate_json(line)
    except ValidationError:
        return None

"""An agent's options in its store, so that the node's standby serves just as the agent did."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import ValidationError

from edgemodel_api.base import StatusModel

from .files import read_json, write_json
from .node import Options

log = logging.getLogger(__name__)

FILE = "options.json"


class Remembered(StatusModel):
    """What a standby needs to know."""

    node: str = "node"
    address: str = "127.0.0.1"
    bind: str = "127.0.0.1"
    recheck: str = "30"
    reserve: int = Options.reserve
    server_threads: int | None = None


def remember(options: Options) -> None:
    """Write them, if they are others than before. On a full disk the ones before must do: an agent begins all the same."""
    now = Remembered(
        node=options.node,
        address=options.address,
        bind=options.bind,
        recheck=str(options.recheck),
        reserve=options.reserve,
        server_threads=options.server_threads,
    )
    path = options.root / FILE
    if read_json(path) != now.to_json():
        try:
            write_json(path, now.to_json())
        except OSError as error:
            log.warning("%s cannot be written: %s", path, error)


def remembered(root: Path, address: str | None = None) -> Options:
    """A standby's options: those of the last agent; `address` replaces its address."""
    try:
        last = Remembered.model_validate(read_json(root / FILE) or {})
        recheck = float(last.recheck)
    except (ValidationError, ValueError):
        last, recheck = Remembered(), 30.0
    return Options(
        node=last.node,
        root=root,
        address=address or last.address,
        bind=last.bind,
        recheck=recheck,
        reserve=last.reserve,
        server_threads=last.server_threads,
        claim=True,
        standby=True,
    )

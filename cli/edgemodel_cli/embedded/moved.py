"""A workdir that was moved: what it holds must name the registry where it is now."""

from __future__ import annotations

from typing import Any

from edgemodel_agent.files import read_json, write_json

from .workdir import Workdir

#: Files in which `reference` is the workdir's own registry.
_HOLDERS = ("objects/edgemodels/*/*/status.json", "objects/edgenodes/*/spec.json", "jobs/*/result.json")


def follow(workdir: Workdir) -> bool:
    """Rewrite references to where the registry was before; whether there were any.

    Digests stay what they are, so nothing is built or rolled out anew.
    """
    moved = False
    for pattern in _HOLDERS:
        for path in sorted(workdir.root.glob(pattern)):
            before = read_json(path)
            after = _pointed(before, workdir.output)
            if after != before:
                write_json(path, after)
                moved = True
    return moved


def _pointed(value: Any, output: str) -> Any:
    if isinstance(value, list):
        return [_pointed(v, output) for v in value]
    if isinstance(value, dict):
        return {k: output if k == "reference" and isinstance(v, str) else _pointed(v, output) for k, v in value.items()}
    return value

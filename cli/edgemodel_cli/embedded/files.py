"""Atomic files, as the agent writes them."""

from __future__ import annotations

from edgemodel_agent.files import read_json, write_atomic, write_json

__all__ = ["read_json", "write_atomic", "write_json"]

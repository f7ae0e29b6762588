"""Registry authentication: Basic (RFC 7617) and Docker's token protocol (distribution spec, "token"). No I/O."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

_SCHEME = re.compile(r"\s*,?\s*([A-Za-z][A-Za-z0-9_-]{0,63})(?:\s+|$)")
_PARAMETER = re.compile(r'\s*,?\s*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_HEADER_LIMIT = 8192
_TOKEN_LIMIT = 64 * 1024


@dataclass(frozen=True)
class Challenge:
    """One challenge of a WWW-Authenticate header; `scheme` in lower case."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict, hash=False)


def parse_challenges(header: str) -> list[Challenge]:
    """The challenges of a WWW-Authenticate header (RFC 9110, 11.6.1); what cannot be read ends the list."""
    header = header[:_HEADER_LIMIT]
    challenges: list[Challenge] = []
    position = 0
    while match := _SCHEME.match(header, position):
        position = match.end()
        parameters: dict[str, str] = {}
        while found := _PARAMETER.match(header, position):
            position = found.end()
            value = found[3] if found[2] is None else re.sub(r"\\(.)", r"\1", found[2])
            parameters[found[1].lower()] = value
        challenges.append(Challenge(match[1].lower(), parameters))
    return challenges


def token_of(content: bytes) -> str | None:
    """The token in a token server's answer (`token` or `access_token`); None if there is none that is usable."""
    try:
        document: Any = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    token = document.get("token") or document.get("access_token")
    usable = isinstance(token, str) and len(token) <= _TOKEN_LIMIT and token.isascii() and token.isprintable()
    return token if usable else None

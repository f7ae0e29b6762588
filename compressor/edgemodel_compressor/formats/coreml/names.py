"""Names that MIL and Swift accept, for names that ONNX allows (`serving_default:0`, `input.1`, `1`)."""

from __future__ import annotations

import re
from collections.abc import Iterable

_VALID = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_OTHER = re.compile(r"[^A-Za-z0-9_]")


def valid(name: str) -> bool:
    """Whether MIL takes the name as it is."""
    return _VALID.match(name) is not None


def plain(name: str, prefix: str = "v") -> str:
    """The name with everything else replaced by `_`; `prefix_` before a leading digit."""
    cleaned = _OTHER.sub("_", name) or prefix
    return cleaned if valid(cleaned) else f"{prefix}_{cleaned}"


class Names:
    """Unique names, given out in order."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)

    def unique(self, wanted: str) -> str:
        """`wanted`, or with a number behind it."""
        name, number = wanted, 0
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name

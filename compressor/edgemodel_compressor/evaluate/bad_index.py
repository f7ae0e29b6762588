"""What onnxruntime says of an index that has no place, in words that lead to the data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

_NUMBER = r"(-?\d+)"
#: Of Gather and ScatterElements; of GatherND and ScatterND; of GatherElements. The operator is named before.
_RANGED = re.compile(rf"idx={_NUMBER} must be within the inclusive range \[{_NUMBER},\s*{_NUMBER}\]")
_FOUND = re.compile(rf"invalid ind\w+ found, ind\w+ = {_NUMBER}")
_NAMELESS = "Out of range value in index tensor"
_NODE = re.compile(r"while running (\w+) node\. Name:'([^']{0,200})'")


def in_words(error: BaseException | str, feeds: Mapping[str, Any]) -> str | None:
    """Which input, which row, what it may be; None: the complaint is of something else.

    Args:
        error: of onnxruntime.
        feeds: what it ran, by the inputs' names, first axis = rows.

    >>> in_words("indices element out of data bounds, idx=7 must be within the inclusive range [-5,4]",
    ...          {"ids": np.array([[0, 1], [2, 7]])})
    "input 'ids' has 7 in row 1 of those that were run together, which the model looks up where only −5 … 4 are: correct the data"
    """
    text = str(error)
    ranged, found = _RANGED.search(text), _FOUND.search(text)
    node = _NODE.search(text)
    where = (f" (node {node[2]!r}, {node[1]})" if node[2] else f" (a {node[1]})") if node else ""
    if ranged is None and found is None:
        if _NAMELESS not in text:
            return None
        return f"an index is beyond what the model looks it up in{where}: correct the whole numbers in the data"
    value = int((ranged or found)[1])  # type: ignore[index]
    allowed = f"only {_signed(int(ranged[2]))} … {_signed(int(ranged[3]))} are" if ranged else "there is no such place"
    return f"{_place(value, feeds)}, which the model looks up where {allowed}{where}: correct the data"


def _place(value: int, feeds: Mapping[str, Any]) -> str:
    for name, array in feeds.items():
        if array.dtype.kind in "iu" and array.ndim:
            rows = np.flatnonzero((array.reshape(len(array), -1) == value).any(axis=1))
            if len(rows):
                together = " of those that were run together" if len(array) > 1 else ""
                return f"input {name!r} has {value} in row {rows[0]}{together}"
    return f"an index of {value} follows from the data"


def _signed(number: int) -> str:
    return f"−{-number}" if number < 0 else str(number)

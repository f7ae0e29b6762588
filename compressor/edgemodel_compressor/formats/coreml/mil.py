"""What the interpreter's operations share: how they are found, and their arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Result = Array | tuple[Array, ...]


@dataclass(frozen=True)
class Arguments:
    """Of one operation. Floats of 16 bits come as 32 bits: sums are kept in single precision within an operation.

    Attributes:
        values: single ones by parameter.
        lists: all values of parameters that take several (`values` of concat).
    """

    values: dict[str, Array] = field(repr=False)
    lists: dict[str, tuple[Array, ...]] = field(repr=False)

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def __getitem__(self, name: str) -> Array:
        return self.values[name]

    def ints(self, name: str) -> list[int]:
        """A constant vector."""
        return [int(v) for v in np.atleast_1d(self.values[name])]

    @overload
    def ints_or(self, name: str, default: list[int]) -> list[int]: ...
    @overload
    def ints_or(self, name: str, default: None) -> list[int] | None: ...
    def ints_or(self, name: str, default: list[int] | None) -> list[int] | None:
        """A constant vector, or the default that the documentation gives."""
        return self.ints(name) if name in self.values else default

    def int_or(self, name: str, default: int) -> int:
        """A constant scalar."""
        return int(self.values[name].reshape(())) if name in self.values else default

    def float_or(self, name: str, default: float) -> float:
        """A constant scalar."""
        return float(self.values[name].reshape(())) if name in self.values else default

    def flag(self, name: str, *, default: bool = False) -> bool:
        """A constant scalar."""
        return bool(self.values[name].reshape(())) if name in self.values else default

    def text(self, name: str, default: str = "") -> str:
        """A constant scalar."""
        return str(self.values[name].reshape(())) if name in self.values else default


Implementation = Callable[[Arguments], Result]

#: MIL operation → what it computes.
IMPLEMENTATIONS: dict[str, Implementation] = {}


def mil(*names: str) -> Callable[[Implementation], Implementation]:
    """Register a function as the implementation of these MIL operations."""

    def register(function: Implementation) -> Implementation:
        for name in names:
            IMPLEMENTATIONS[name] = function
        return function

    return register

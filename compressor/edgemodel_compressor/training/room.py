"""How much learning may take: rows that a network answers at a time, and rows whose gradients are computed at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted, format_bytes
from edgemodel_api.reasons import INSUFFICIENT_MEMORY
from edgemodel_compressor.evaluate.runner import BATCH_ROWS
from edgemodel_compressor.memory import Limit, give_back, in_use

#: For whoever waits for the Job beside it, pages of libraries that are in use, and the kernel's own.
SPARE_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Room:
    """What there is.

    Attributes:
        rows: that a network answers at a time, at most.
        allowed: memory of the whole Job; None: as much as it takes.
    """

    rows: int = BATCH_ROWS
    allowed: Limit | None = None

    def for_step(self, batch: int, needed: Callable[[int], int], *, unit: int = 1) -> int:
        """How many rows of a step may be computed at a time: all of them, or fewer, in several parts.

        Args:
            batch: rows of a step.
            needed: rows → bytes that so many take at a time; takes seconds, as it compiles.
            unit: rows that cannot be parted; `batch` is a multiple of it.

        Raises:
            InputError: not even `unit` fit (reason InsufficientMemory), with the numbers and what to change.
        """
        if self.allowed is None:
            return batch
        rows, size = batch, needed(batch)
        give_back()
        # What compiling has left behind is there now.
        held = in_use() + SPARE_BYTES
        left = self.allowed.memory_bytes - held
        common, each = 0.0, size / batch
        while size > left and rows > unit:
            fits = int((left - common) / each) if each > 0 else 0
            fewer = max(unit, min(rows - unit, fits) // unit * unit)
            found = needed(fewer)
            # In a straight line through both, which the first guess had go through nothing at all.
            each = (size - found) / (rows - fewer)
            rows, size, common = fewer, found, found - each * fewer
        if size <= left:
            return rows
        raise InputError(
            f"learning takes about {format_bytes(size)} of memory for {counted(unit, 'row')} at a time, beside"
            f" {format_bytes(held)} that the Job holds already, and {self.allowed.too_little(held + size)}; or give training data"
            " with smaller inputs",
            reason=INSUFFICIENT_MEMORY,
        )


UNLIMITED = Room()

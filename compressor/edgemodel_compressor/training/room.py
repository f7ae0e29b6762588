"""How much learning may take: rows that a network answers at a time, and rows whose gradients are computed at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted, format_bytes
from edgemodel_api.reasons import INSUFFICIENT_MEMORY
from edgemodel_compressor.evaluate.runner import BATCH_ROWS
from edgemodel_compressor.memory import Limit, in_use

#: For whoever waits for the Job beside it, and the kernel's own.
SPARE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Room:
    """What there is.

    Attributes:
        rows: that a network answers at a time, at most.
        allowed: memory of the whole Job; None: as much as it takes.
    """

    rows: int = BATCH_ROWS
    allowed: Limit | None = None

    def parts(self, units: int, needed: Callable[[int], int], *, unit: int = 1) -> int:
        """In how many equal parts a step must be computed, so that each fits: the fewest that divide its rows.

        Args:
            units: rows of a step, over `unit`.
            needed: number of parts → bytes that each takes; takes seconds, as it compiles.
            unit: rows that cannot be parted, for the message.

        Raises:
            InputError: the smallest part does not fit (reason InsufficientMemory), with the numbers and what to change.
        """
        if self.allowed is None:
            return 1
        parts, size = 1, needed(1)
        # What compiling has left behind is there now.
        held = in_use() + SPARE_BYTES
        left = self.allowed.memory_bytes - held
        while size > left and parts < units:
            # As if parts were in proportion; what they have in common makes another try necessary.
            enough = parts * size / max(left, 1)
            parts = next((d for d in range(parts + 1, units) if units % d == 0 and d >= enough), units)
            size = needed(parts)
        if size <= left:
            return parts
        raise InputError(
            f"learning takes about {format_bytes(size)} of memory for {counted(unit, 'row')} at a time, beside"
            f" {format_bytes(held)} that the Job holds already, and {self.allowed.too_little(held + size)}; or give training data"
            " with smaller inputs",
            reason=INSUFFICIENT_MEMORY,
        )


UNLIMITED = Room()

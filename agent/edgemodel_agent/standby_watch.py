"""Whether this node's standby is there, as the status says it; and how the agent asks for it to go.

The agent may not touch the kubelet's folder: who writes there is root on the node. So it only leaves a wish in the store,
and the `keep-standby` container beside it (chart) removes the static pod's manifest, and says so.

```
<root>/retire    the agent's wish: no standby here
<root>/retired   the answer: the manifest is gone
```
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from edgemodel_api.edgenode import StandbyState

from .claims import standby_lives

WISH, ANSWER = "retire", "retired"
LOOK_SECONDS = 2.0
#: A static pod comes late: its image may have to be pulled, its kubelet looks every 20 s.
PATIENCE_SECONDS = 90.0


class StandbyWatch:
    """`look` now and again. `clock`: monotonic seconds."""

    def __init__(self, root: Path, *, expected: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.root = root
        self.expected = expected
        self._clock = clock
        self._missing_at = clock() + PATIENCE_SECONDS
        self._next_look = 0.0
        self._state: StandbyState | None = None

    def look(self, *, retire: bool) -> StandbyState | None:
        """The state; None: no standby is expected, or nothing can be said yet.

        Raises:
            OSError: the wish cannot be written.
        """
        if not self.expected or (now := self._clock()) < self._next_look:
            return self._state
        self._next_look = now + LOOK_SECONDS
        wish, lives = self.root / WISH, standby_lives(self.root)
        if retire and not wish.exists():
            wish.touch()
        elif not retire:
            wish.unlink(missing_ok=True)
        if lives:
            self._missing_at = now + PATIENCE_SECONDS
            self._state = StandbyState.WAITING
        elif retire and (self.root / ANSWER).exists():
            self._state = StandbyState.RETIRED
        elif now >= self._missing_at:
            self._state = StandbyState.MISSING
        return self._state

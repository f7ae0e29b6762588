"""Rehearsed faults, carried out: the server goes wrong on purpose at its stage. See `edgemodel_agent.faults`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import numpy as np

from edgemodel_agent.faults import Fault, FaultStage, Rehearsal
from edgemodel_agent.runtimes.base import Array, Arrays

#: Slow: each inference takes so many times its own time, and so many seconds more: beyond every limit of `checks.Trial`.
SLOW_FACTOR = 30
SLOW_SECONDS = 0.1
#: Crash while serving: so many seconds after the switch if no request comes before.
CRASH_AFTER_SECONDS = 1.0
CRASH_CODE = 70


class Misbehaviour:
    """Wraps each inference. `serving` is set once the server answers clients."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        self.fault = rehearsal.fault
        self.stage = rehearsal.at
        self.serving = False

    def active(self) -> bool:
        """Whether the stage has come."""
        return self.serving == (self.stage is FaultStage.SERVING)

    def crashes_by_itself(self) -> bool:
        """Whether the process shall end soon after the switch, even if nobody asks it anything."""
        return self.fault is Fault.CRASH and self.stage is FaultStage.SERVING

    def around(self, run: Callable[[], Arrays]) -> Arrays:
        """One inference, gone wrong."""
        if not self.active():
            return run()
        if self.fault is Fault.CRASH:
            crash()
        began = time.monotonic()
        results = run()
        if self.fault is Fault.SLOW:
            time.sleep(SLOW_SECONDS + (SLOW_FACTOR - 1) * (time.monotonic() - began))
        if self.fault is Fault.WRONG_OUTPUT:
            return {name: spoilt(array) for name, array in results.items()}
        return results


def crash() -> None:
    """End at once, without any tidying up."""
    print("rehearsed fault Crash", file=sys.stderr, flush=True)
    os._exit(CRASH_CODE)


def spoilt(array: Array) -> Array:
    """Wrong in every element, of the same type and shape: another class wins, and the distance is large."""
    if array.dtype.kind == "O":
        wrong = np.empty(array.shape, np.object_)
        wrong.reshape(-1)[:] = [f"wrong {v}" for v in array.reshape(-1).tolist()]
        return wrong
    if array.dtype.kind == "b":
        return np.asarray(np.logical_not(array))
    if array.dtype.kind in "iu":
        return np.bitwise_not(array)
    return np.asarray(-1 - array.astype(np.float64)).astype(array.dtype)

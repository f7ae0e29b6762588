"""Rehearsed faults: what a user asks for to see, on a game day, that a bad revision is stopped and put back."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from pydantic import Field, ValidationError

from edgemodel_api.base import ApiModel
from edgemodel_api.errors import InputError


class Fault(StrEnum):
    """What goes wrong."""

    WRONG_OUTPUT = "WrongOutput"
    SLOW = "Slow"
    CRASH = "Crash"
    NO_DISK = "NoDisk"


class FaultStage(StrEnum):
    """When it goes wrong: while it is checked, or after the switch."""

    CHECK = "Check"
    SERVING = "Serving"


class Rehearsal(ApiModel):
    """`--rehearse`: applies to variants that never served here, once the node has served `after` of them.

    Trials are left alone: the point is to see the rollout stop, not that it does not begin.
    """

    fault: Fault
    at: FaultStage = FaultStage.CHECK
    after: int = Field(0, ge=0)

    @classmethod
    def parse(cls, text: str) -> Rehearsal:
        """From JSON.

        Raises:
            InputError: it is not such a JSON object.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'value'}: {e['msg']}" for e in error.errors())
            raise InputError(
                f'--rehearse: {problems}; write it as {{"fault": "WrongOutput", "at": "Check", "after": 1}}'
            ) from None

    def applies(self, digest: str, served: Sequence[str]) -> bool:
        """Whether the variant with this digest is to go wrong on a node that served these."""
        return digest not in served and len(served) >= self.after

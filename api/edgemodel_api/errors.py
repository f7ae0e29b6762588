"""Errors that a user can act on. Every message says what was wrong, with the number, and what to change."""

from __future__ import annotations

EXIT_OK = 0
EXIT_REFUSED = 1
EXIT_BAD_INPUT = 2
EXIT_FAILED = 3


class EdgeModelError(Exception):
    """Base of every error that reaches a user as text; `reason` is a CamelCase constant for conditions."""

    exit_code = EXIT_FAILED
    reason = "Failed"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if reason is not None:
            self.reason = reason


class InputError(EdgeModelError):
    """What the user gave (manifest, model, data, URI, folder) cannot be used. Trying again gives the same."""

    exit_code = EXIT_BAD_INPUT
    reason = "InvalidInput"


class RefusedError(EdgeModelError):
    """A gate said no: the budget or a health check. The message holds the number and the limit."""

    exit_code = EXIT_REFUSED
    reason = "BudgetExceeded"


class TransientError(EdgeModelError):
    """Something outside failed for now (link, registry, full disk): the same call may work later."""

    exit_code = EXIT_FAILED
    reason = "Unavailable"

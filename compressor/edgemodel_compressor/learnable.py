"""Whether a search may train: the libraries are there, and they know the model's operators."""

from __future__ import annotations

from typing import Any

from edgemodel_api.errors import InputError


def learnable(model: Any) -> tuple[bool, str]:
    """(whether, why not). Loads the libraries for training."""
    from .training import backend

    try:
        backend.require()
    except InputError as error:
        return False, error.message
    from .training.convert import unsupported

    lacking = unsupported(model)
    if not lacking:
        return True, ""
    more = f", and {len(lacking) - 3} more" if len(lacking) > 3 else ""
    return False, f"it cannot learn through {'; '.join(lacking[:3])}{more}"

"""JAX and optax, loaded only where something learns: an installation without the extra `train` does all the rest."""

from __future__ import annotations

import importlib
import os
from typing import Any

from edgemodel_api import reasons
from edgemodel_api.errors import InputError


def require() -> tuple[Any, Any]:
    """The modules `jax` and `optax`.

    Raises:
        InputError: one of them is not installed, or does not load here.
    """
    # Said before the first import: looking for other devices takes seconds and prints warnings.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    try:
        return importlib.import_module("jax"), importlib.import_module("optax")
    except Exception as error:  # jaxlib raises RuntimeError on CPUs that it was not built for
        raise InputError(
            f"distill and recover learn with JAX and optax, which do not load here ({error}): install the extra"
            " `edgemodel[train]`, or leave distill and recover out",
            reason=reasons.NOT_SUPPORTED,
        ) from None
